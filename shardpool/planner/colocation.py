"""Partition-wise joins: when the rows of a FROM clause are the union, over the partitions, of each partition's rows.

A join tree has a *carrier*: a sharded item of which every row of the tree has exactly one row, so that the row belongs
to that row's partition. A tree of reference tables has none. A join keeps the property when

- both sides have carriers whose keys are equal by facts that hold for the joined rows (colocated), or
- only one side has one, and no row of the other side can appear without it.
"""

from __future__ import annotations

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree
from shardpool.planner.pins import Equalities
from shardpool.planner.scopes import Item, Scope
from shardpool.planner.statement import Statement


class NotColocated(Exception):
    """The FROM clause cannot be computed per partition; the message says why."""


def carrier_of(scope: Scope, statement: Statement) -> Item:
    """Return the carrier of a scope whose FROM clause is partition-wise. Raise `NotColocated`."""
    walker = _Walker(scope, statement)
    found: Item | None = None
    for node in scope.select.from_clause:
        found = walker.inner(found, walker.carrier(node))
    if found is None:
        raise NotColocated("no sharded table in FROM")
    return found


class _Walker:
    def __init__(self, scope: Scope, statement: Statement) -> None:
        self._statement = statement
        self._items = scope.items

    def carrier(self, node: Tree) -> Item | None:
        match node.WhichOneof("node"):
            case "range_var":
                item = self._find(node.range_var)
                return item if item.table is not None and item.table.sharded else None
            case "join_expr":
                return self._join(node.join_expr)
        raise NotColocated("FROM has something other than tables")

    def _find(self, range_var: Tree) -> Item:
        """The item of a RangeVar: they are equal with their positions in the text."""
        for item in self._items:
            if item.node is not None and item.node == range_var:
                return item
        raise NotColocated(f"{range_var.relname} is not a table")

    def _join(self, join: Tree) -> Item | None:
        left, right = self.carrier(join.larg), self.carrier(join.rarg)
        if join.jointype == pb.JOIN_INNER:
            return self.inner(left, right)
        if join.jointype == pb.JOIN_FULL:
            if left is None and right is None:
                return None
            raise NotColocated("FULL JOIN of a sharded table")
        kept, supplied = (left, right) if join.jointype == pb.JOIN_LEFT else (right, left)
        if supplied is None:
            return kept
        if kept is None:
            raise NotColocated("an outer join keeps the rows of a reference table and supplies a sharded one")
        self._check(supplied, kept)
        return kept

    def inner(self, left: Item | None, right: Item | None) -> Item | None:
        if left is not None and right is not None:
            self._check(right, left)
        return left or right

    def _check(self, item: Item, other: Item) -> None:
        """The keys of *item* and *other* must be equal by facts that hold for *item*'s rows."""
        assert item.table is not None and other.table is not None
        equalities = Equalities(item, self._statement)
        pairs = list(zip(item.table.key, other.table.key, strict=False))
        if item.table.key_types != other.table.key_types or not all(
            equalities.same((item, item.alias_of(mine) or ""), (other, other.alias_of(theirs) or ""))
            for mine, theirs in pairs
        ):
            raise NotColocated(f"{other.alias} and {item.alias} are not joined on their partition keys")
