"""Pins: what restricts an occurrence of a sharded table to some partitions, whatever the data.

From the facts that hold for the occurrence's rows: its key columns equal a constant or parameter, or one of a list of
them, directly or through a chain of equalities with other key-typed columns of the same collation; or they equal the
key columns of an occurrence in an enclosing query, whose pins they then share. What holds for a column of a subquery in
FROM holds for the column behind it, and the other way round.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, is_a, names, row_columns
from shardpool.planner.clauses import windows
from shardpool.planner.constants import CAST_TYPES, UNKNOWN, Parameter, Source, Sources, source_of, values_of
from shardpool.planner.frozen import once
from shardpool.planner.scopes import Analysis, Fact, Item, Member, Scope
from shardpool.planner.statement import Statement
from shardpool.topology.key import KEY_TYPES, KeyType
from shardpool.topology.shard_map import Topology

#: More alternatives than this are not worth counting.
MAX_ALTERNATIVES = 10_000


@dataclass(frozen=True)
class Pin:
    """For each key column lists of alternatives, all of which hold; or, in `follows`, the index of the occurrence whose
    pins are shared.

    An empty list is a contradiction: there are no such rows.
    """

    columns: tuple[tuple[Sources, ...], ...] = ()
    follows: int | None = None


def find_pins(analysis: Analysis, statement: Statement) -> tuple[Pin | None, ...]:
    """Return the pin of each occurrence, None for one that ranges over all partitions (or is a reference table)."""
    return tuple(_pin(item, analysis, statement) for item in analysis.occurrences)


def _pin(item: Item, analysis: Analysis, statement: Statement) -> Pin | None:
    if item.table is None or not item.table.sharded or item.sampled:
        return None
    classes = Equalities.of(item, statement)
    columns: list[tuple[Sources, ...]] = []
    owners: list[Item | None] = []
    for key in item.table.key:
        name = item.alias_of(key)
        if name is None:
            return None
        columns.append(tuple(_sources((item, name), classes, analysis, statement)))
        owners.append(classes.outer_key((item, name), key))
    if any(not sources for lists in columns for sources in lists):
        return Pin(tuple(((),) for _ in columns))
    if all(columns):
        return Pin(tuple(columns))
    owner = owners[0]
    if owner is not None and all(other is owner for other in owners) and owner in analysis.occurrences:
        return Pin(follows=analysis.occurrences.index(owner))
    return None


def _sources(
    member: Member, classes: Equalities, analysis: Analysis, statement: Statement, up: bool = True
) -> Iterator[Sources]:
    """Yield all lists of alternatives for a column: by the facts of its query, of the one around, of those inside."""
    yield from classes.sources(member)
    for other in classes.members(member):
        item, name = other
        inner = (
            item.origins[item.columns.index(name)] if item.columns and name in item.columns and item.origins else None
        )
        if inner is not None:
            yield from _sources(inner, Equalities.of(inner[0], statement), analysis, statement, up=False)
    scope = member[0].scope
    around = _use_of(scope, analysis) if up else None
    if around is None or around.columns is None:
        return
    for name, origin in zip(around.columns, around.origins, strict=False):
        if origin is not None and classes.same(origin, member):
            yield from _sources((around, name), Equalities.of(around, statement), analysis, statement)


def _use_of(scope: Scope, analysis: Analysis) -> Item | None:
    """The one FROM item in which a subquery is used, if conditions on that could as well be checked inside."""
    select = scope.select
    if select.HasField("limit_count") or select.HasField("limit_offset") or select.locking_clause:
        return None
    if any(node.WhichOneof("node") for node in select.distinct_clause) or any(True for _ in windows(select)):
        return None
    uses = [item for other in analysis.scopes for item in other.items if item.query is select]
    return uses[0] if len(uses) == 1 else None


@dataclass(frozen=True)
class Meaning:
    """What a fact says: that two columns are equal, that each of some columns is one of a list, or that nothing is."""

    equal: tuple[Member, Member] | None = None
    alternatives: Mapping[Member, Sources] = field(default_factory=dict)
    never: bool = False


class Equalities:
    """The classes of columns that are equal, and the constants they equal, by the facts that hold for *item*'s rows,
    or by *facts* alone.
    """

    def __init__(self, item: Item, statement: Statement, facts: Iterable[Fact] | None = None) -> None:
        self._statement = statement
        self._parent: dict[Member, Member] = {}
        self._sources: dict[Member, list[Sources]] = {}
        self._item = item
        self._never = False
        for fact in (fact for fact in item.scope.facts if fact.holds_for(item)) if facts is None else facts:
            self._learn(fact)

    @staticmethod
    @once
    def of(item: Item, statement: Statement) -> Equalities:
        """The equalities that hold for *item*'s rows."""
        return Equalities(item, statement)

    def sources(self, member: Member) -> list[Sources]:
        """All lists of alternatives for a column, from anything in its class; an empty one if nothing can be true."""
        root = self._root(member)
        found = [found for other, lists in self._sources.items() if self._root(other) == root for found in lists]
        return [*found, ()] if self._never else found

    def members(self, member: Member) -> list[Member]:
        """The columns in a column's class."""
        root = self._root(member)
        return [other for other in list(self._parent) if self._root(other) == root]

    def same(self, left: Member, right: Member) -> bool:
        return self._root(left) == self._root(right)

    def outer_key(self, member: Member, key: str) -> Item | None:
        """The sharded occurrence of an enclosing query whose key column at the same place is in the class."""
        root = self._root(member)
        table = self._item.table
        assert table is not None
        place = table.key.index(key)
        for item, name in list(self._parent):
            if item.scope is self._item.scope or item.table is None or item.sampled:
                continue
            if item.table.key_types == table.key_types and self._root((item, name)) == root:
                column = item.column(name)
                if column is not None and column.name == item.table.key[place]:
                    return item
        return None

    def _learn(self, fact: Fact) -> None:
        if fact.meaning is None:
            fact.meaning = self._meaning(fact)
        self._never = self._never or fact.meaning.never
        if fact.meaning.equal is not None:
            self._join(*fact.meaning.equal)
        for member, sources in fact.meaning.alternatives.items():
            self._sources.setdefault(member, []).append(sources)
            self._root(member)

    def _meaning(self, fact: Fact) -> Meaning:
        if fact.equality is not None:
            return Meaning(fact.equality)
        if _is_false(fact.condition):
            return Meaning(never=True)
        pair = _operands(fact.condition)
        if pair is not None and all(is_a(side, "column_ref") for side in pair):
            left, right = (self._item.scope.resolve(side.column_ref, fact.visible) for side in pair)
            return Meaning(None if left is None or right is None else (left, right))
        return Meaning(alternatives=self._alternatives(fact.condition, fact))

    def _join(self, left: Member, right: Member) -> None:
        """Both sides must hash alike when equal: same class of key types, same collation."""
        columns = [item.column(name) for item, name in (left, right)]
        if columns[0] is None or columns[1] is None:
            return
        types = [KEY_TYPES.get(column.base_type) for column in columns if column is not None]
        if types[0] is not None and types[0] == types[1] and columns[0].collation == columns[1].collation:
            self._parent[self._root(left)] = self._root(right)

    def _root(self, member: Member) -> Member:
        parent = self._parent.setdefault(member, member)
        while parent != member:
            member, parent = parent, self._parent[parent]
        return member

    def _alternatives(self, node: Tree, fact: Fact) -> dict[Member, Sources]:
        """Return column -> alternatives, one of which the column must equal for *node* to be true."""
        if is_a(node, "bool_expr"):
            parts = [self._alternatives(part, fact) for part in node.bool_expr.args if not _is_false(part)]
            if node.bool_expr.boolop == pb.AND_EXPR:
                return {member: sources for part in reversed(parts) for member, sources in part.items()}
            if node.bool_expr.boolop == pb.OR_EXPR and parts:
                common = set.intersection(*(set(part) for part in parts))
                merged = {member: sum((part[member] for part in parts), ()) for member in common}
                return {member: found for member, found in merged.items() if len(found) <= MAX_ALTERNATIVES}
            return {}
        if not is_a(node, "a_expr") or names(node.a_expr.name) != ("=",):
            return {}
        return dict(self._comparisons(node.a_expr, fact))

    def _comparisons(self, expression: Tree, fact: Fact) -> Iterator[tuple[Member, Sources]]:
        left, right = expression.lexpr, expression.rexpr
        match expression.kind:
            case pb.AEXPR_OP:
                if is_a(right, "column_ref"):
                    left, right = right, left
                yield from self._compared(left, [right], fact)
            case pb.AEXPR_IN:
                yield from self._compared(left, right.list.items, fact)
            case pb.AEXPR_OP_ANY:
                yield from self._known(left, self._elements(right), fact)

    def _compared(self, left: Tree, nodes: Any, fact: Fact) -> Iterator[tuple[Member, Sources]]:
        """What *left* is compared with, one of *nodes*; of rows, column by column."""
        columns, rows = row_columns(left), [row_columns(node) for node in nodes]
        if not columns:
            yield from self._known(left, self._sources_of(nodes), fact)
        elif all(len(row) == len(columns) for row in rows):
            for place, column in enumerate(columns):
                yield from self._compared(column, [row[place] for row in rows], fact)

    def _known(self, left: Tree, sources: Sources | None, fact: Fact) -> Iterator[tuple[Member, Sources]]:
        if sources is not None and is_a(left, "column_ref"):
            member = self._item.scope.resolve(left.column_ref, fact.visible)
            if member is not None and member[0].scope is self._item.scope:
                yield member, sources

    def _sources_of(self, nodes: Any) -> Sources | None:
        """The alternatives in a list; None if one is neither constant nor parameter. A NULL never equals anything."""
        found: list[Source] = []
        for node in nodes:
            if is_a(node, "a_const") and node.a_const.isnull:
                continue
            source = source_of(node, self._statement)
            if source is None:
                return None
            found.append(source)
        return tuple(found) if len(found) <= MAX_ALTERNATIVES else None

    def _elements(self, node: Tree) -> Sources | None:
        """The alternatives of ``= ANY (...)``."""
        if is_a(node, "type_cast") and node.type_cast.type_name.array_bounds:
            if names(node.type_cast.type_name.names)[-1] not in CAST_TYPES:
                return None
            node = node.type_cast.arg
        if is_a(node, "a_array_expr"):
            return self._sources_of(node.a_array_expr.elements)
        if is_a(node, "param_ref"):
            return (Parameter(self._statement.names[node.param_ref.number - 1], many=True),)
        return None


def _operands(node: Tree) -> tuple[Tree, Tree] | None:
    if is_a(node, "a_expr") and node.a_expr.kind == pb.AEXPR_OP and names(node.a_expr.name) == ("=",):
        return node.a_expr.lexpr, node.a_expr.rexpr
    return None


def _is_false(node: Tree) -> bool:
    """Whether a condition is a literal that is never true: false, NULL, 1 = 0 or 1 <> 1."""
    if is_a(node, "a_const"):
        value = node.a_const
        return bool(value.isnull or (value.WhichOneof("val") == "boolval" and not value.boolval.boolval))
    if not is_a(node, "a_expr") or node.a_expr.kind != pb.AEXPR_OP:
        return False
    sides = (node.a_expr.lexpr, node.a_expr.rexpr)
    if not all(is_a(side, "a_const") and side.a_const.WhichOneof("val") == "ival" for side in sides):
        return False
    equal = bool(sides[0].a_const.ival.ival == sides[1].a_const.ival.ival)
    operator = names(node.a_expr.name)
    return (operator == ("=",) and not equal) or (operator == ("<>",) and equal)


def partitions_of(
    pins: tuple[Pin | None, ...], index: int, item: Item, parameters: Mapping[str, Any], topology: Topology
) -> frozenset[int] | None:
    """Return the ids of the partitions that occurrence *index* is pinned to for these parameters; None for all."""
    pin = pins[index]
    seen = {index}
    while pin is not None and pin.follows is not None:
        if pin.follows in seen:
            return None
        seen.add(pin.follows)
        pin = pins[pin.follows]
    if pin is None or item.table is None:
        return None
    types = item.table.key_types
    columns = [_values(lists, key_type, parameters) for lists, key_type in zip(pin.columns, types, strict=True)]
    found = [values for values in columns if values is not None]
    if len(found) < len(columns) or math.prod(map(len, found)) > MAX_ALTERNATIVES:
        return None
    keys = found[0] if len(found) == 1 else itertools.product(*found)
    return frozenset(topology.place(key, types).partition.id for key in keys)


def _values(lists: tuple[Sources, ...], key_type: KeyType, parameters: Mapping[str, Any]) -> set[Any] | None:
    """The values that stand in all *lists*, those aside that are not certain; None if none is."""
    certain = []
    for sources in lists:
        values = set(values_of(sources, key_type, parameters))
        if UNKNOWN not in values:
            certain.append(values)
    return set.intersection(*certain) if certain else None


def union_of(sets: Iterable[frozenset[int] | None], topology: Topology) -> frozenset[int] | None:
    """Return the partitions of several occurrences; None for all. Where there are none, any one can say so."""
    found: frozenset[int] = frozenset()
    for partitions in sets:
        if partitions is None:
            return None
        found |= partitions
    return found or frozenset({topology.shard_map.partitions[0].id})
