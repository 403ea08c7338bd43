"""Gathering tables: the rows that a statement may need, as temporary tables of the merge node (or of all shards).

For each sharded table: the columns whose names occur in the statement (all of them where a star, a whole row or an
unknown function may need more), and of the rows those that pass, for some occurrence of the table, its own conditions.
Every occurrence finds a superset of its rows and checks its conditions again, so that nothing is lost or added.

A row that must equal one of another table, by a fact that holds for it, is needed only if that one is: so a table can
be reduced by the filtered rows of a reference table, or of a table that was gathered and spread to all shards before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, UnfaithfulText, column_fields, is_a, names, to_sql, walk, walk_flat
from shardpool.planner.plan import SCHEMA_MARKER
from shardpool.planner.rewrite import column, rewritten, target
from shardpool.planner.safety import not_repeatable
from shardpool.planner.scopes import STAGE_SCHEMA, Analysis, Fact, Item, Member
from shardpool.planner.sizes import UNKNOWN_SIZE, Sizes, selectivity
from shardpool.planner.statement import Statement, to_pyformat
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Column, Table


@dataclass(frozen=True)
class Source:
    """A table to gather: its texts with and without conditions, and its occurrences' places in the analysis."""

    table: Table
    columns: tuple[Column, ...]
    filtered: str
    unfiltered: str
    occurrences: tuple[int, ...]
    indexes: tuple[tuple[str, ...], ...] = ()


def plan_sources(
    analysis: Analysis, statement: Statement, topology: Topology, unknown_function: str | None
) -> tuple[Source, ...]:
    """Return what to gather for a statement as a whole, one entry per sharded table of it."""
    sources = Sources(statement.node.select_stmt, analysis, statement, topology, unknown_function is not None)
    sharded = {item.table.name for item in analysis.occurrences if item.table is not None and item.table.sharded}
    return tuple(sources.source(name, analysis.occurrences) for name in sorted(sharded))


class Sources:
    """Makes `Source`s for the tables of one query. With *everything* they are whole."""

    def __init__(
        self, select: Tree, analysis: Analysis, statement: Statement, topology: Topology, everything: bool = False
    ) -> None:
        self._analysis = analysis
        self._statement = statement
        self._topology = topology
        self._everything = everything
        self._needed = None if everything else _mentioned(select, analysis)
        #: Occurrences whose needed rows stand in a temporary table of every shard: its name.
        self.spread: dict[Item, str] = {}
        self._shares: dict[Item, float] = {}
        self._own = cache(self._own_conditions)
        self._equalities = cache(_equalities)

    def source(self, name: str, occurrences: Collection[Item]) -> Source:
        """Return the source of a table for those of the *occurrences* that are of it."""
        table = self._topology.tables[name]
        items = [item for item in occurrences if item.table is table]
        renamed = any(item.node.alias.colnames for item in items)
        columns = tuple(c for c in table.columns if self._needed is None or renamed or c.name in self._needed)
        columns = columns or table.columns[:1]
        condition = None if self._everything else self._condition(items)
        unfiltered = self._select(table, columns, None)
        filtered = unfiltered if condition is None else self._select(table, columns, condition)
        places = tuple(self._analysis.occurrences.index(item) for item in items)
        indexes = dict.fromkeys(found for item in items if (found := _looked_up_by(item)))
        return Source(table, columns, filtered, unfiltered, places, tuple(indexes))

    def share(self, name: str, occurrences: Collection[Item]) -> float:
        """Guess the share of a table's rows that those of the *occurrences* need that are of it."""
        items = [item for item in occurrences if item.table is not None and item.table.name == name]
        return min(1.0, sum(selectivity(self._own(item)) * self._reduced(item) for item in items))

    def mark_spread(self, name: str, occurrences: Collection[Item], table: str) -> None:
        """From now on the needed rows of a table, in the temporary *table*, can reduce others."""
        share = self.share(name, occurrences)
        for item in occurrences:
            if item.table is not None and item.table.name == name:
                self.spread[item] = table
                self._shares[item] = share

    def in_order(self, occurrences: Collection[Item], sizes: Sizes) -> Iterator[str]:
        """Yield the tables of *occurrences*, the one with the fewest needed bytes first. Each is to be marked then."""
        left = {item.table.name for item in occurrences if item.table is not None}
        while left:
            least = min(sorted(left), key=lambda name: self._bytes(name, occurrences, sizes))
            left.remove(least)
            yield least

    def bytes_of(self, occurrences: Collection[Item], sizes: Sizes) -> float:
        """Guess the bytes to gather for *occurrences*, if each table is reduced by the ones before."""
        total = 0.0
        for name in self.in_order(occurrences, sizes):
            total += self._bytes(name, occurrences, sizes)
            self.mark_spread(name, occurrences, "")
        self.forget_spread()
        return total

    def forget_spread(self) -> None:
        """No table is spread any more."""
        self.spread = {}
        self._shares = {}

    def _bytes(self, name: str, occurrences: Collection[Item], sizes: Sizes) -> float:
        columns = self._topology.tables[name].columns
        needed = sum(1 for column in columns if self._needed is None or column.name in self._needed)
        size = sizes.get(name, UNKNOWN_SIZE).bytes
        return size * needed / len(columns) * self.share(name, occurrences)

    # -- conditions -------------------------------------------------------------------------------------------------

    def _condition(self, items: list[Item]) -> Tree | None:
        """The OR, over the occurrences, of each one's own conditions; None if one occurrence has none."""
        choices = []
        for item in items:
            parts = [] if item.sampled else [*self._own(item), *self._reductions(item, ())]
            if not parts:
                return None
            choices.append(_joined(pb.AND_EXPR, parts))
        return _joined(pb.OR_EXPR, choices)

    def _own_conditions(self, item: Item) -> list[Tree]:
        return [_bare(fact.condition) for fact in item.scope.facts if self._filters(fact, item)]

    def _filters(self, fact: Fact, item: Item) -> bool:
        """Whether rows of *item* that fail the condition can be left out beforehand."""
        if fact.condition is None or not _removes(fact, item):
            return False
        nodes = list(walk_flat(fact.condition))
        members = [item.scope.resolve(node, fact.visible) for node in nodes if isinstance(node, pb.ColumnRef)]
        if not members or not all(m is not None and m[0] is item and _named_so(item, m[1]) for m in members):
            return False
        links = [node for node in nodes if isinstance(node, pb.SubLink)]
        if not all(_reads_a_stage(link) for link in links):
            return False
        return not_repeatable(fact.condition, self._topology, whole=bool(links)) is None

    def _reductions(self, item: Item, path: tuple[Item, ...]) -> list[Tree]:
        """Conditions of the form ``column IN (SELECT ...)`` that needed rows fulfil."""
        found = []
        for own, other in self._equalities(item):
            if other[0] is not item and other[0] not in path:
                reducer = self._reducer(other, (*path, item))
                if reducer is not None:
                    link = pb.SubLink(sub_link_type=pb.ANY_SUBLINK, testexpr=column(own), subselect=reducer)
                    found.append(pb.Node(sub_link=link))
        return found

    def _reducer(self, member: Member, path: tuple[Item, ...]) -> Tree | None:
        """The SELECT of the values that a column has in the needed rows of its table, if all shards can answer it."""
        item, name = member
        if item.table is None or item.sampled or not _named_so(item, name):
            return None
        if item in self.spread:
            source = pb.RangeVar(schemaname=STAGE_SCHEMA, relname=self.spread[item], inh=True, relpersistence="p")
            conditions: list[Tree] = []
        elif item.table.sharded:
            return None
        else:
            conditions = [*self._own(item), *self._reductions(item, path)]
            if not conditions:
                return None
            source = pb.RangeVar(relname=item.table.name, inh=True, relpersistence="p")
        source.alias.aliasname = _REDUCER
        select = pb.SelectStmt(limit_option=pb.LIMIT_OPTION_DEFAULT, op=pb.SETOP_NONE)
        fields = [pb.Node(string=pb.String(sval=part)) for part in (_REDUCER, name)]
        select.target_list.append(target(pb.Node(column_ref=pb.ColumnRef(fields=fields))))
        select.from_clause.append(pb.Node(range_var=source))
        if conditions:
            select.where_clause.CopyFrom(_joined(pb.AND_EXPR, conditions))
        return pb.Node(select_stmt=select)

    def _reduced(self, item: Item, path: tuple[Item, ...] = ()) -> float:
        share = 1.0
        for _, (other, _) in self._equalities(item):
            if other is item or other in path or other.table is None:
                continue
            if other in self._shares:
                share *= self._shares[other]
            elif not other.table.sharded:
                share *= selectivity(self._own(other)) * self._reduced(other, (*path, item))
        return share

    def _select(self, table: Table, columns: tuple[Column, ...], condition: Tree | None) -> str:
        select = pb.SelectStmt(limit_option=pb.LIMIT_OPTION_DEFAULT, op=pb.SETOP_NONE)
        select.target_list.extend(target(column(c.name)) for c in columns)
        source = pb.RangeVar(schemaname=SCHEMA_MARKER, relname=table.name, inh=True, relpersistence="p")
        select.from_clause.append(pb.Node(range_var=source))
        if condition is not None:
            select.where_clause.CopyFrom(condition)
        try:
            return to_pyformat(to_sql(select), self._statement)
        except UnfaithfulText:
            if condition is None:
                raise
            return self._select(table, columns, None)


#: What the table that reduces another one is called in the condition.
_REDUCER = "shardpool_reducer"


def takes_whole_rows(select: Tree, analysis: Analysis) -> bool:
    """Whether a row as a whole may be meant: its type is named after its table."""
    aliases = {item.alias for scope in analysis.scopes for item in scope.items}
    return any(
        parts[-1] in aliases or (parts[-1] != "*" and not _is_plain_column(parts, analysis))
        for parts in (column_fields(node) for node in walk(select) if isinstance(node, pb.ColumnRef))
    )


def _mentioned(select: Tree, analysis: Analysis) -> frozenset[str] | None:
    """Every name that a column reference ends in; None where whole rows may be meant."""
    aliases = {item.alias for item in analysis.occurrences}
    found: set[str] = set()
    for node in walk(select):
        match node:
            case pb.ColumnRef():
                parts = column_fields(node)
                if parts[-1] in aliases or "*" in parts or not _is_plain_column(parts, analysis):
                    return None
                found.add(parts[-1])
            case pb.JoinExpr():
                if node.is_natural or node.HasField("alias") or node.HasField("join_using_alias"):
                    return None
                found.update(names(node.using_clause))
    return frozenset(found)


def _is_plain_column(parts: tuple[str, ...], analysis: Analysis) -> bool:
    """Whether ``o.x`` is column x of o; it may also be the function x of the row o."""
    if len(parts) == 1:
        return True
    meant = [item for scope in analysis.scopes for item in scope.items if item.alias == parts[-2]]
    return all(item.columns is not None and parts[-1] in item.columns for item in meant)


def _removes(fact: Fact, item: Item) -> bool:
    return fact.holds_for(item) and item.outer <= fact.outer


def _equalities(item: Item) -> list[tuple[str, Member]]:
    """Pairs of a column of *item* and a column of another item that its needed rows equal."""
    found = []
    for fact in item.scope.facts:
        if not _removes(fact, item):
            continue
        for own, other in _sides(fact, item):
            if own[0] is item and _named_so(item, own[1]):
                found.append((own[1], other))
    return found


def _sides(fact: Fact, item: Item) -> list[tuple[Member, Member]]:
    pair = fact.equality
    if pair is None:
        node = fact.condition
        if not is_a(node, "a_expr") or node.a_expr.kind != pb.AEXPR_OP or names(node.a_expr.name) != ("=",):
            return []
        sides = (node.a_expr.lexpr, node.a_expr.rexpr)
        if not all(is_a(side, "column_ref") for side in sides):
            return []
        left, right = (item.scope.resolve(side.column_ref, fact.visible) for side in sides)
        if left is None or right is None:
            return []
        pair = (left, right)
    return [pair, (pair[1], pair[0])]


def _looked_up_by(item: Item) -> tuple[str, ...]:
    """The columns by which a subquery looks its rows up for each row of the query around it."""
    found = [own for own, other in _equalities(item) if other[0].scope is not item.scope]
    return tuple(sorted(set(found)))


def _reads_a_stage(link: Tree) -> bool:
    """Whether a subquery just reads a temporary table that all shards have."""
    select = link.subselect.select_stmt
    return len(select.from_clause) == 1 and select.from_clause[0].range_var.schemaname == STAGE_SCHEMA


def _named_so(item: Item, name: str) -> bool:
    column = item.column(name)
    return item.table is not None and column is not None and column.name == name


def _bare(condition: Tree) -> Tree:
    def replace(node: Tree) -> Tree | None:
        if is_a(node, "select_stmt"):
            return node
        return column(column_fields(node.column_ref)[-1]) if is_a(node, "column_ref") else None

    return rewritten(condition, replace)


def _joined(operator: int, parts: list[Tree]) -> Tree:
    return parts[0] if len(parts) == 1 else pb.Node(bool_expr=pb.BoolExpr(boolop=operator, args=parts))
