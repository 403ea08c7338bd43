"""Partition-wise proofs: when the rows of a query are the union, over the partitions, of each partition's rows.

A FROM clause has a *carrier*: a sharded occurrence of which every row of the clause has exactly one row, so that it
belongs to that row's partition. Reference tables have none. A join keeps the property when

- both sides have carriers whose keys are equal by facts that hold for the joined rows (colocated); of a FULL JOIN,
  by its own condition, and then a row belongs to the partition of either side, whichever it has; or
- only one side has one, and no row of the other side can appear without it.

A whole query keeps it when its groups, DISTINCT rows and window partitions lie within a partition: their expressions
contain the carrier's key. A subquery in an expression may be evaluated beside a row if all sharded rows that it looks
at lie in the partition of that row (it is *tied*), or if it looks at none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, is_a, is_star, names, row_columns, unwrap, walk_flat
from shardpool.planner.carriers import (
    Carrier,
    NotPartitionWise,
    Rows,
    check_compared,
    check_same_everywhere,
    meant,
    member,
    same,
)
from shardpool.planner.clauses import conditions, is_grouped, outputs, windows
from shardpool.planner.needed_rows import conjuncts
from shardpool.planner.pins import Equalities
from shardpool.planner.safety import not_repeatable
from shardpool.planner.scopes import Analysis, Item, Scope
from shardpool.planner.statement import Statement
from shardpool.topology.key import KEY_TYPES, KeyType
from shardpool.topology.shard_map import Topology


class PartitionWise:
    """Proofs about the queries of one statement. The occurrences in *spread* count as reference tables.

    The rows of those in *divided* have been divided among the shards anew, by the column given: a shard's share is
    their partition. Either all occurrences are divided that are not spread, or none is.
    """

    def __init__(
        self,
        analysis: Analysis,
        statement: Statement,
        topology: Topology,
        spread: Collection[Item] = (),
        divided: Mapping[Item, str] | None = None,
    ) -> None:
        self._analysis = analysis
        self._statement = statement
        self._topology = topology
        self._spread = frozenset(spread)
        self._divided = divided or {}
        #: Queries that were asked for alone, and what was found: asked again at each level, nested ones would double.
        self._alone: dict[int, tuple[Tree, Rows | NotPartitionWise | None]] = {}
        #: The recursive queries that are being proven, and what their rows are supposed to be.
        self._steps: list[tuple[Tree, Rows | None]] = []

    # -- a scope's rows ---------------------------------------------------------------------------------------------

    def rows(self, scope: Scope, outer: Sequence[Carrier] = ()) -> list[Carrier]:
        """Prove FROM and WHERE; return the carrier and after it whatever else lies in its partition.

        The list is empty if no sharded table is in FROM.
        """
        all_found: list[Carrier] = []
        carrier: Carrier | None = None
        for node in scope.select.from_clause:
            carrier = self._inner(carrier, self._from(node, scope, [*outer, *all_found], all_found))
        for node in conditions(scope.select):
            self.expression(node, scope, [*outer, *all_found])
        return [] if carrier is None else [carrier, *(other for other in all_found if other is not carrier)]

    def _from(self, node: Tree, scope: Scope, outer: Sequence[Carrier], all_found: list[Carrier]) -> Carrier | None:
        """Return the carrier of a FROM node, after adding all that are below it to *all_found*."""
        if is_a(node, "join_expr"):
            return self._join(node.join_expr, scope, outer, all_found)
        carrier = self._leaf(node, scope, outer)
        if carrier is not None:
            all_found.append(carrier)
        return carrier

    def _leaf(self, node: Tree, scope: Scope, outer: Sequence[Carrier]) -> Carrier | None:
        found = unwrap(node)
        item = next((item for item in scope.items if item.node is found), None)
        if item is None or isinstance(found, pb.RangeTableSample):
            raise NotPartitionWise("FROM has something other than tables and subqueries")
        if item.table is not None:
            if not item.table.sharded or item in self._spread:
                return None
            if self._divided and item not in self._divided:
                raise NotPartitionWise(f"{item.alias} stays in its partitions, where others are divided anew")
            return Carrier((item,), item, self._key(item), self._key_types((item,)))
        if isinstance(found, pb.RangeSubselect) and found.lateral:
            self._beside(item.query, outer)
            return None
        if item.query is not None or item.recursion is not None:
            rows = self._step_before(item) if item.query is None else self.query(item.query, self._seen(item, outer))
            if rows is None:
                return None
            keys = () if item.columns is None else tuple(item.columns[place] for place in rows[1])
            return Carrier(rows[0], item, keys, self._key_types(rows[0]))
        if isinstance(found, pb.RangeFunction) and not found.coldeflist:
            for function in found.functions:
                for part in function.list.items:
                    self._check(part, scope, outer, sets=True)
        elif not isinstance(found, pb.RangeVar) or not found.schemaname:
            raise NotPartitionWise("FROM has something other than tables and subqueries")
        return None

    def _join(self, join: Tree, scope: Scope, outer: Sequence[Carrier], all_found: list[Carrier]) -> Carrier | None:
        below: list[Carrier] = []
        left = self._from(join.larg, scope, outer, below)
        right = self._from(join.rarg, scope, [*outer, *below], below)
        all_found += below
        if join.jointype == pb.JOIN_INNER:
            return self._inner(left, right)
        if join.jointype == pb.JOIN_FULL:
            if left is None and right is None:
                return None
            if left is None or right is None:
                raise NotPartitionWise("FULL JOIN of a sharded table with one that is not")
            return self._full(join, scope, left, right)
        kept, supplied = (left, right) if join.jointype == pb.JOIN_LEFT else (right, left)
        if supplied is None:
            return kept
        if kept is None:
            raise NotPartitionWise("an outer join keeps the rows of a reference table and supplies a sharded one")
        self._check_colocated(supplied, kept)
        return kept

    def _full(self, join: Tree, scope: Scope, left: Carrier, right: Carrier) -> Carrier:
        """Only what it joins on counts: a WHERE would look at rows that found no partner elsewhere."""
        own = [*conjuncts(join.quals)] if join.HasField("quals") else []
        using = scope.using_of(join)
        facts = [
            fact
            for fact in scope.facts
            if any(fact.condition is part for part in own)
            or (fact.items == frozenset() and fact.equality is not None and fact.equality[0][1] in using)
        ]
        self._check_colocated(right, left, Equalities(right.item, self._statement, facts))
        return Carrier((*left.roots, *right.roots), left.item, (), left.key_types)

    def _inner(self, left: Carrier | None, right: Carrier | None) -> Carrier | None:
        if left is not None and right is not None:
            self._check_colocated(right, left)
        return left or right

    def _check_colocated(self, carrier: Carrier, other: Carrier, equal: Equalities | None = None) -> None:
        if not self._same_keys(carrier, other, equal):
            raise NotPartitionWise(
                f"{other.item.alias} and {carrier.item.alias} are not joined on their partition keys"
            )

    def _same_keys(self, carrier: Carrier, other: Carrier, equal: Equalities | None = None) -> bool:
        """Whether the keys are equal, by facts that hold for *carrier*'s rows if no others are given."""
        if not carrier.keys or not other.keys or carrier.key_types != other.key_types:
            return False
        equal = equal or Equalities.of(carrier.item, self._statement)
        return all(
            equal.same((carrier.item, mine), (other.item, theirs))
            for mine, theirs in zip(carrier.keys, other.keys, strict=True)
        )

    # -- whole queries ----------------------------------------------------------------------------------------------

    def query(self, select: Tree, outer: Sequence[Carrier] = ()) -> Rows | None:
        """Prove a whole query, e.g. one in FROM; None if it reads no sharded table, and is the same everywhere."""
        if select.op != pb.SETOP_NONE:
            if select.sort_clause or select.HasField("limit_count") or select.HasField("limit_offset"):
                raise NotPartitionWise("a subquery's order ranges over all partitions")
            return self.union(select, outer)
        scope = self._analysis.scope_of(select)
        carriers = self.rows(scope, outer)
        for node in outputs(select):
            self.expression(node, scope, [*outer, *carriers])
        if not carriers:
            check_same_everywhere(select)
            return None
        if select.HasField("limit_count") or select.HasField("limit_offset"):
            raise NotPartitionWise("LIMIT in a subquery ranges over all partitions")
        if select.sort_clause:
            raise NotPartitionWise("a subquery's order ranges over all partitions")
        self.check_whole(scope, carriers[0])
        return carriers[0].roots, self._exported(scope, carriers[0])

    def union(self, select: Tree, outer: Sequence[Carrier] = ()) -> Rows | None:
        """Prove a set operation, its order and limit aside.

        All but UNION ALL compare rows; equal ones lie in one partition if they have its key.
        """
        if any(select is found for found in self._analysis.recursions):
            return self._recursion(select)
        left, right = (self.query(branch, outer) for branch in (select.larg, select.rarg))
        if left is None and right is None:
            return None
        if left is None or right is None:
            raise NotPartitionWise("a branch of a set operation reads no sharded table")
        alike = left[1] == right[1] and self._key_types(left[0]) == self._key_types(right[0])
        check_compared(select, left[1] if alike else ())
        return (*left[0], *right[0]), left[1] if alike else ()

    def _recursion(self, select: Tree) -> Rows | None:
        """Prove a recursive CTE: if the rows of a step lie in the partitions of the rows before them, each lies in that
        of a first one. They may carry its key along, at the same places.
        """
        first = self.query(select.larg)
        for places in dict.fromkeys(((), ()) if first is None else (first[1], ())):
            supposed = None if first is None else (first[0], places)
            self._steps.append((select, supposed))
            try:
                then = self.query(select.rarg)
            finally:
                self._steps.pop()
            if supposed is None and then is None:
                return None
            if supposed is None or then is None:
                raise NotPartitionWise("a recursive query does not begin with the rows of a sharded table")
            carried = places == then[1] and self._key_types(supposed[0]) == self._key_types(then[0])
            if carried or not places:
                check_compared(select, places)
                return supposed
        raise NotPartitionWise("a recursive query does not carry the partition key along")

    def _seen(self, item: Item, outer: Sequence[Carrier]) -> Sequence[Carrier]:
        """The carriers that a query in FROM can look at: none of its own FROM. A recursive one can look at nothing."""
        if item.scope.parent is None:
            return ()
        if any(item.query is found for found in self._analysis.recursions):
            raise NotPartitionWise("of a recursive query in a subquery only some rows might be asked for")
        return outer

    def _step_before(self, item: Item) -> Rows | None:
        """The rows of a recursive CTE inside of itself, as they are supposed to be."""
        for select, rows in self._steps:
            if select is item.recursion:
                return rows
        raise NotPartitionWise("a recursive query is looked at from outside")

    def _exported(self, scope: Scope, carrier: Carrier) -> tuple[int, ...]:
        """The places of the carrier's key among the output columns; () if it is not whole."""
        equal = Equalities.of(carrier.item, self._statement)
        places = []
        for key in carrier.keys:
            own = (carrier.item, key)
            place = next((i for i, member in enumerate(scope.origins) if same(equal, member, own)), None)
            if place is None:
                return ()
            places.append(place)
        return tuple(places)

    def check_whole(self, scope: Scope, carrier: Carrier) -> None:
        """Groups, DISTINCT rows and window partitions must lie within a partition."""
        select = scope.select
        targets = list(select.target_list)
        if is_grouped(select):
            if any(is_a(node, "grouping_set") for node in select.group_clause):
                raise NotPartitionWise("GROUPING SETS range over all partitions")
            groups = [meant(node, targets, scope) for node in select.group_clause]
            self._check_contains_key("GROUP BY", groups, scope, carrier)
        if select.distinct_clause:
            distinct = [node for node in select.distinct_clause if node.WhichOneof("node")]
            if distinct:
                raise NotPartitionWise("DISTINCT ON ranges over all partitions")
            self._check_contains_key("DISTINCT", [target.res_target.val for target in targets], scope, carrier)
        for window in windows(select):
            self._check_contains_key("a window", window, scope, carrier)

    def _check_contains_key(self, what: str, nodes: Iterable[Tree], scope: Scope, carrier: Carrier) -> None:
        equal = Equalities.of(carrier.item, self._statement)
        members = [member(node, scope) for node in nodes]
        if not carrier.keys or not all(
            any(same(equal, member, (carrier.item, key)) for member in members) for key in carrier.keys
        ):
            raise NotPartitionWise(f"{what} without the partition key ranges over all partitions")

    # -- expressions ------------------------------------------------------------------------------------------------

    def expression(self, node: Tree, scope: Scope, carriers: Sequence[Carrier]) -> None:
        """Prove that an expression can be evaluated beside the rows of *carriers*: in their partition alone."""
        self._check(node, scope, carriers)

    def _check(self, node: Tree, scope: Scope, carriers: Sequence[Carrier], *, sets: bool = False) -> None:
        for part in () if is_star(node) else (node,):
            reason = None
            if not is_a(part, "column_ref"):
                reason = not_repeatable(part, self._topology, scope, whole=True, sets=sets)
            if reason is not None:
                raise NotPartitionWise(reason)
            for inner in walk_flat(part):
                if isinstance(inner, pb.SubLink):
                    self.sublink(inner, scope, carriers)

    def sublink(self, link: Tree, scope: Scope, carriers: Sequence[Carrier]) -> None:
        select = link.subselect.select_stmt
        try:
            self._beside(select, carriers)
        except NotPartitionWise:
            if not self._is_tied_by_in(link, scope, carriers):
                raise

    def _beside(self, select: Tree, carriers: Sequence[Carrier]) -> None:
        """All sharded rows that *select* looks at must lie in the partition of a row of *carriers*."""
        if select.op != pb.SETOP_NONE:
            for branch in (select.larg, select.rarg):
                self._beside(branch, carriers)
            if not self.reads_sharded(select):
                check_same_everywhere(select)
            return
        scope = self._analysis.scope_of(select)
        found = self.rows(scope, carriers)
        for node in outputs(select):
            self.expression(node, scope, [*carriers, *found])
        if not found:
            check_same_everywhere(select)
        elif not any(self._same_keys(found[0], carrier) for carrier in carriers):
            raise NotPartitionWise("a subquery is not tied to the partition of the row that it stands beside")

    def _is_tied_by_in(self, link: Tree, scope: Scope, carriers: Sequence[Carrier]) -> bool:
        """``key IN (SELECT key ...)``, or ``(key, x) IN ...``: rows of other partitions have other keys.

        Not where an outer join may have left the key NULL: compared with rows of other partitions it is not false.
        """
        if link.sub_link_type != pb.ANY_SUBLINK or names(link.oper_name) not in ((), ("=",)):
            return False
        rows = self._query_alone(link.subselect.select_stmt)
        if isinstance(rows, NotPartitionWise):
            return False
        if rows is None or len(rows[1]) != 1:
            return False
        columns, (place,) = row_columns(link.testexpr) or [link.testexpr], rows[1]
        tested = member(columns[place], scope) if place < len(columns) else None
        if tested is None:
            return False
        for carrier in carriers:
            if carrier.key_types != self._key_types(rows[0]) or len(carrier.keys) != 1 or carrier.item.outer:
                continue
            column = carrier.item.column(carrier.keys[0])
            collations = {self._collation(root) for root in rows[0]}
            equal = Equalities.of(carrier.item, self._statement)
            alike = column is not None and collations == {column.collation}
            if alike and equal.same(tested, (carrier.item, carrier.keys[0])):
                return True
        return False

    def _query_alone(self, select: Tree) -> Rows | NotPartitionWise | None:
        if id(select) not in self._alone:
            found: Rows | NotPartitionWise | None
            try:
                found = self.query(select)
            except NotPartitionWise as reason:
                found = reason
            self._alone[id(select)] = select, found
        return self._alone[id(select)][1]

    # -- keys ---------------------------------------------------------------------------------------------------------

    def _key(self, item: Item) -> tuple[str, ...]:
        """The item's columns that decide where its rows are."""
        if item in self._divided:
            return (self._divided[item],)
        assert item.table is not None
        return tuple(item.alias_of(key) or "" for key in item.table.key)

    def _key_types(self, roots: tuple[Item, ...]) -> tuple[KeyType, ...]:
        table = roots[0].table
        assert table is not None
        if roots[0] not in self._divided:
            return table.key_types
        column = roots[0].column(self._divided[roots[0]])
        return () if column is None else (KEY_TYPES[column.base_type],)

    def _collation(self, root: Item) -> str | None:
        column = root.column(self._key(root)[0])
        return None if column is None else column.collation

    def reads_sharded(self, select: Tree) -> bool:
        """Whether a query reads sharded tables that are not spread, at any depth, by way of CTEs too."""
        for scope in self._analysis.scopes_in(select):
            for item in scope.items:
                if item.table is not None and item.table.sharded and item not in self._spread:
                    return True
                is_cte = isinstance(item.node, pb.RangeVar) and item.query is not None
                if is_cte and self.reads_sharded(item.query):
                    return True
        return False
