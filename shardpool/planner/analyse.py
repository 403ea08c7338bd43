"""The analysis of a statement: its scopes and facts (`scopes`), found by one walk through the tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from postgast import pg_query_pb2 as pb

from shardpool.errors import UnknownTable
from shardpool.planner.ast import Tree, children, equal_rows, freeze, is_a, is_star, names, unwrap
from shardpool.planner.from_functions import function_columns, renamed
from shardpool.planner.output import output_name
from shardpool.planner.refusals import refuse
from shardpool.planner.scopes import (
    STAGE_SCHEMA,
    SYSTEM_SCHEMAS,
    Analysis,
    Columns,
    Fact,
    Item,
    Member,
    Merge,
    Scope,
)
from shardpool.planner.using import common_columns, expand_star, hash_alike, merge_of, type_of
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Column, Table


def analyse(select: Tree, topology: Topology, stages: Mapping[str, Columns] | None = None) -> Analysis:
    """Find the scopes of a SelectStmt. Raise `UnknownTable` or `UnsupportedStatement`.

    *stages* are the columns of temporary tables that stand in place of subqueries, in the schema `STAGE_SCHEMA`.
    """
    freeze(select)
    analyser = _Analyser(select, topology, stages or {})
    analyser.select(select, None, {})
    for scope in analyser.analysis.scopes:
        scope.complete = True
    return analyser.analysis


@dataclass(frozen=True, eq=False)
class _Query:
    """A subquery or CTE: its output columns, and what they are."""

    columns: Columns
    select: Tree = None
    origins: tuple[Member | None, ...] = ()
    types: tuple[Column | None, ...] = ()
    recursion: Tree = None

    def definitions(self) -> tuple[Column | None, ...]:
        """The definitions of the columns that come from tables as they are."""
        return self.types or tuple(None if it is None else it[0].column(it[1]) for it in self.origins)


_Ctes = dict[str, _Query]


class _Analyser:
    def __init__(self, select: Tree, topology: Topology, stages: Mapping[str, Columns]) -> None:
        self.topology = topology
        self._stages = stages
        self.analysis = Analysis(select)
        self._joins = 0

    def select(self, select: Tree, parent: Scope | None, ctes: _Ctes, own: Tree = None) -> _Query:
        """Analyse a SelectStmt of any kind; return its output columns. It may be that of the recursive CTE *own*."""
        if select.HasField("into_clause"):
            raise refuse("SP103")
        if select.HasField("with_clause"):
            ctes = self._with(select.with_clause, parent, dict(ctes))
        if select.op != pb.SETOP_NONE:
            left = self.select(select.larg, parent, ctes)
            if own is not None:
                step = _Query(left.columns, types=left.definitions(), recursion=select)
                ctes = {**ctes, own.ctename: _named(step, own)}
            right = self.select(select.rarg, parent, ctes)
            self._sublinks(Scope(select, parent), ctes, ("larg", "rarg", "with_clause"))
            # A recursive CTE has the types of its first branch, or PostgreSQL refuses it.
            types = left.definitions() if own is not None else _alike(left.definitions(), right.definitions())
            return _Query(left.columns, select, types=types)
        scope = Scope(select, parent)
        self.analysis.scopes.append(scope)
        for node in select.from_clause:
            self._from(node, scope, ctes, frozenset())
        if select.HasField("where_clause"):
            self._conjuncts(select.where_clause, scope, Fact(None, frozenset()))
        self._sublinks(scope, ctes, ("from_clause", "with_clause"))
        if select.values_lists:
            width = len(select.values_lists[0].list.items)
            return _Query(tuple(f"column{number + 1}" for number in range(width)), select)
        scope.columns, scope.origins = self._outputs(scope)
        return _Query(scope.columns, select, scope.origins)

    def _with(self, clause: Tree, parent: Scope | None, ctes: _Ctes) -> _Ctes:
        for node in clause.ctes:
            cte = node.common_table_expr
            if not is_a(cte.ctequery, "select_stmt"):
                raise refuse("SP102", "it is not at the top")
            if clause.recursive:
                ctes[cte.ctename] = _Query(None)
        for node in clause.ctes:
            cte = node.common_table_expr
            plain = not cte.HasField("search_clause") and not cte.HasField("cycle_clause")
            query = self.select(cte.ctequery.select_stmt, parent, ctes, cte if clause.recursive and plain else None)
            # SEARCH and CYCLE add columns.
            ctes = {**ctes, cte.ctename: _named(query, cte) if plain else replace(query, columns=None)}
        return ctes

    def _sublinks(self, scope: Scope, ctes: _Ctes, skipped: tuple[str, ...]) -> None:
        for descriptor, value in scope.select.ListFields():
            if descriptor.message_type is None or descriptor.name in skipped:
                continue
            for message in value if descriptor.is_repeated else (value,):
                self._selects_below(message, scope, ctes)

    def _selects_below(self, message: Tree, scope: Scope, ctes: _Ctes) -> None:
        for found in selects_below(message):
            self.select(found, scope, ctes)

    # -- FROM -------------------------------------------------------------------------------------------------------

    def _from(self, node: Tree, scope: Scope, ctes: _Ctes, outer: frozenset[int], sampled: bool = False) -> list[Item]:
        """Add a FROM node to *scope*; return the items below it."""
        match node.WhichOneof("node"):
            case "range_var":
                item = self._table(node.range_var, scope, ctes, outer)
                item.sampled = sampled
            case "join_expr":
                return self._join(node.join_expr, scope, ctes, outer)
            case "range_table_sample":
                self._selects_below(node.range_table_sample, scope, ctes)
                return self._from(node.range_table_sample.relation, scope, ctes, outer, sampled=True)
            case "range_subselect":
                inner = node.range_subselect
                enclosing = scope.so_far() if inner.lateral else scope.parent
                query = self.select(inner.subquery.select_stmt, enclosing, ctes)
                item = _item_of(query, inner, inner.alias.aliasname, scope, outer)
                self.analysis.composed = True
            case _:
                self._selects_below(node, scope, ctes)
                item = Item(
                    unwrap(node).alias.aliasname, function_columns(unwrap(node), scope), scope, outer, node=unwrap(node)
                )
                self.analysis.composed = True
        scope.items.append(item)
        return [item]

    def _table(self, node: Tree, scope: Scope, ctes: _Ctes, outer: frozenset[int]) -> Item:
        alias = node.alias.aliasname or node.relname
        if not node.schemaname and node.relname in ctes:
            self.analysis.composed = True
            query = ctes[node.relname]
            if query.recursion is not None:
                self.analysis.recursions.append(query.recursion)
            return _item_of(query, node, alias, scope, outer)
        if node.schemaname == STAGE_SCHEMA and node.relname in self._stages:
            return Item(alias, renamed(self._stages[node.relname], node.alias), scope, outer, node=node)
        table = find_table(node, self.topology)
        columns = renamed(tuple(column.name for column in table.columns), node.alias)
        item = Item(alias, columns, scope, outer, table, node)
        self.analysis.occurrences.append(item)
        return item

    def _join(self, join: Tree, scope: Scope, ctes: _Ctes, outer: frozenset[int]) -> list[Item]:
        self._joins += 1
        supplied = outer | {self._joins}
        left_outer = supplied if join.jointype in (pb.JOIN_RIGHT, pb.JOIN_FULL) else outer
        right_outer = supplied if join.jointype in (pb.JOIN_LEFT, pb.JOIN_FULL) else outer
        left = self._from(join.larg, scope, ctes, left_outer)
        right = self._from(join.rarg, scope, ctes, right_outer)
        using = common_columns(left, right, scope) if join.is_natural else names(join.using_clause)
        if using is None or join.HasField("alias") or join.HasField("join_using_alias"):
            scope.opaque = True
        scope.using.append((join, using or ()))
        holds_for: frozenset[Item] | None
        match join.jointype:
            case pb.JOIN_INNER:
                holds_for, checked = (frozenset(left + right) if outer else None), outer
            case pb.JOIN_LEFT:
                holds_for, checked = frozenset(right), supplied
            case pb.JOIN_RIGHT:
                holds_for, checked = frozenset(left), supplied
            case _:
                holds_for, checked = frozenset(), supplied
        if join.HasField("quals"):
            self._conjuncts(join.quals, scope, Fact(holds_for, checked, visible=frozenset(left + right)))
            self._selects_below(join.quals, scope, ctes)
        for name in using or ():
            self._using(name, join.jointype, left, right, scope, Fact(holds_for, checked))
        return left + right

    def _using(self, name: str, jointype: int, left: list[Item], right: list[Item], scope: Scope, fact: Fact) -> None:
        sides = [merge_of(name, items, scope) for items in (left, right)]
        below = frozenset(item for side in sides for item in side.items)
        others = [merge for merge in scope.merges.get(name, []) if not merge.items <= below]
        items = [side.item for side in sides]
        columns = [None if item is None else item.column(name) for item in items]
        item = {pb.JOIN_INNER: items[0], pb.JOIN_LEFT: items[0], pb.JOIN_RIGHT: items[1]}.get(jointype)
        # Columns of different types merge into one of their common type, which is neither's.
        types = [type_of(column) for column in columns]
        exact = types[0] is not None and types[0] == types[1] and all(side.exact for side in sides)
        scope.merges[name] = [Merge(below, item if exact or hash_alike(*columns) else None, exact), *others]
        scope.merged[name] = item if exact and not others else None
        if items[0] is not None and items[1] is not None and None not in (items[0].columns, items[1].columns):
            fact.equality = ((items[0], name), (items[1], name))
            scope.facts.append(fact)

    def _conjuncts(self, node: Tree, scope: Scope, fact: Fact) -> None:
        """Add *node*'s conjuncts to the scope as facts like *fact*."""
        if is_a(node, "bool_expr") and node.bool_expr.boolop == pb.AND_EXPR:
            for part in node.bool_expr.args:
                self._conjuncts(part, scope, fact)
        elif pairs := equal_rows(node):
            equal, nowhere = node.a_expr.name, -node.a_expr.location  # it stands for a part, not for the whole
            for left, right in pairs:
                part = pb.Node(
                    a_expr=pb.A_Expr(kind=pb.AEXPR_OP, name=equal, lexpr=left, rexpr=right, location=nowhere)
                )
                freeze(part)
                self._conjuncts(part, scope, fact)
        else:
            scope.facts.append(replace(fact, condition=node))

    def _outputs(self, scope: Scope) -> tuple[Columns, tuple[Member | None, ...]]:
        columns: list[str] = []
        origins: list[Member | None] = []
        for node in scope.select.target_list:
            target = node.res_target
            if is_star(target.val):
                expanded = expand_star(target.val.column_ref, scope)
                if expanded is None:
                    return None, ()
                columns += [name for _, name in expanded]
                origins += expanded
                continue
            name = output_name(target)
            if name is None:
                return None, ()
            columns.append(name)
            is_column = is_a(target.val, "column_ref")
            origins.append(scope.resolve(target.val.column_ref) if is_column else None)
        if any(is_a(node, "grouping_set") for node in scope.select.group_clause):
            origins = []  # a grouped column is NULL where its set leaves it out
        return tuple(columns), tuple(origins)


def _named(query: _Query, cte: Tree) -> _Query:
    """The query with the columns called as the CTE says."""
    given = names(cte.aliascolnames)
    return replace(query, columns=given + query.columns[len(given) :] if query.columns is not None else None)


def _alike(left: tuple[Column | None, ...], right: tuple[Column | None, ...]) -> tuple[Column | None, ...]:
    """The definitions of a set operation's columns, as far as both sides have the same type."""
    pairs = zip(left, right, strict=False)
    return tuple(one if type_of(one) == type_of(other) else None for one, other in pairs)


def find_table(node: Tree, topology: Topology) -> Table:
    """Return the keyspace's table that a RangeVar names. Raise `UnknownTable`, or refuse a system catalog."""
    name = node.relname
    if node.schemaname in SYSTEM_SCHEMAS or (not node.schemaname and name.startswith("pg_")):
        raise refuse("SP106", name)
    table = topology.tables.get(name)
    if table is None or node.catalogname or node.schemaname not in ("", topology.keyspace):
        full = ".".join(part for part in (node.catalogname, node.schemaname, name) if part)
        raise UnknownTable(full, topology.keyspace, list(topology.tables))
    return table


def selects_below(message: Tree) -> Iterator[Tree]:
    """Yield the SelectStmts in an expression, not those inside of them."""
    if isinstance(message, pb.SelectStmt):
        yield message
        return
    for child in children(message) if not isinstance(message, pb.Node) else (unwrap(message),):
        if child is not message:
            yield from selects_below(child)


def _item_of(query: _Query, node: Tree, alias: str, scope: Scope, outer: frozenset[int]) -> Item:
    columns = renamed(query.columns, node.alias)
    return Item(
        alias,
        columns,
        scope,
        outer,
        node=node,
        query=query.select,
        origins=query.origins,
        types=query.types,
        recursion=query.recursion,
    )
