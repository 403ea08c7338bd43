"""Pins: what restricts an occurrence of a sharded table to some partitions, whatever the data.

From the facts that hold for the occurrence's rows: its key columns equal a constant or parameter, or one of a list of
them, directly or through a chain of equalities with other key-typed columns of the same collation; or they equal the
key columns of an occurrence in an enclosing query, whose pins they then share.

A constant counts only if its value in the *column's type* is certain: ``42`` and ``'42'`` for a bigint, not ``42.0``.
"""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, is_a, kind, names
from shardpool.planner.scopes import Analysis, Fact, Item, Member
from shardpool.planner.statement import Statement
from shardpool.topology.key import KEY_TYPES, KeyType
from shardpool.topology.shard_map import Topology

_INTEGER = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_CAST_TYPES = {
    "int2": KeyType.INTEGER,
    "int4": KeyType.INTEGER,
    "int8": KeyType.INTEGER,
    "text": KeyType.TEXT,
    "uuid": KeyType.UUID,
    "date": KeyType.DATE,
}
#: Longer texts are no 64-bit integers, or oddly written ones.
MAX_DIGITS = 25
#: More alternatives than this are not worth counting.
MAX_ALTERNATIVES = 1000


class _Unknown:
    """The value of a constant that is not certain in the key's type."""


UNKNOWN = _Unknown()


@dataclass(frozen=True)
class Constant:
    """A literal in the statement: a Python value as psycopg2 would take it."""

    value: object


@dataclass(frozen=True)
class Parameter:
    """A parameter; `many` if it stands for a list of which one element is meant."""

    name: str
    many: bool = False


Source = Constant | Parameter
Sources = tuple[Source, ...]


@dataclass(frozen=True)
class Pin:
    """For each key column the alternatives; or, in `follows`, the index of the occurrence whose pins are shared."""

    columns: tuple[Sources, ...] = ()
    follows: int | None = None


def find_pins(analysis: Analysis, statement: Statement) -> tuple[Pin | None, ...]:
    """Return the pin of each occurrence, None for one that ranges over all partitions (or is a reference table)."""
    return tuple(_pin(item, analysis, statement) for item in analysis.occurrences)


def _pin(item: Item, analysis: Analysis, statement: Statement) -> Pin | None:
    if item.table is None or not item.table.sharded or item.sampled:
        return None
    classes = Equalities(item, statement)
    columns: list[Sources] = []
    owners: list[Item | None] = []
    for key in item.table.key:
        name = item.alias_of(key)
        if name is None:
            return None
        columns.append(min(classes.sources((item, name)), key=len, default=()))
        owners.append(classes.outer_key((item, name), key))
    if all(columns) and (len(columns) == 1 or all(len(sources) == 1 for sources in columns)):
        return Pin(tuple(columns))
    owner = owners[0]
    if owner is not None and all(other is owner for other in owners) and owner in analysis.occurrences:
        return Pin(follows=analysis.occurrences.index(owner))
    return None


class Equalities:
    """The classes of columns that are equal, and the constants they equal, by the facts that hold for *item*'s rows."""

    def __init__(self, item: Item, statement: Statement) -> None:
        self._statement = statement
        self._parent: dict[Member, Member] = {}
        self._sources: dict[Member, list[Sources]] = {}
        self._item = item
        for fact in item.scope.facts:
            if fact.holds_for(item):
                self._learn(fact)

    def sources(self, member: Member) -> list[Sources]:
        """All lists of alternatives for a column, from anything in its class."""
        root = self._root(member)
        return [found for other, lists in self._sources.items() if self._root(other) == root for found in lists]

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
        if fact.equality is not None:
            self._join(*fact.equality)
            return
        pair = _operands(fact.condition)
        if pair is not None and all(is_a(side, "column_ref") for side in pair):
            left, right = (self._item.scope.resolve(side.column_ref, fact.visible) for side in pair)
            if left is not None and right is not None:
                self._join(left, right)
            return
        for member, sources in self._alternatives(fact.condition, fact).items():
            self._sources.setdefault(member, []).append(sources)
            self._root(member)

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
            parts = [self._alternatives(part, fact) for part in node.bool_expr.args]
            if node.bool_expr.boolop == pb.AND_EXPR:
                return {member: sources for part in reversed(parts) for member, sources in part.items()}
            if node.bool_expr.boolop == pb.OR_EXPR:
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
                sources = self._sources_of([right])
            case pb.AEXPR_IN:
                sources = self._sources_of(right.list.items)
            case pb.AEXPR_OP_ANY:
                sources = self._elements(right)
            case _:
                return
        if sources and is_a(left, "column_ref"):
            member = self._item.scope.resolve(left.column_ref, fact.visible)
            if member is not None and member[0].scope is self._item.scope:
                yield member, sources

    def _sources_of(self, nodes: Any) -> Sources:
        """The alternatives in a list; () if one is neither constant nor parameter. A NULL never equals anything."""
        found: list[Source] = []
        for node in nodes:
            if is_a(node, "a_const") and node.a_const.isnull and len(nodes) > 1:
                continue
            source = source_of(node, self._statement)
            if source is None:
                return ()
            found.append(source)
        return tuple(found) if len(found) <= MAX_ALTERNATIVES else ()

    def _elements(self, node: Tree) -> Sources:
        """The alternatives of ``= ANY (...)``."""
        if is_a(node, "type_cast") and node.type_cast.type_name.array_bounds:
            if names(node.type_cast.type_name.names)[-1] not in _CAST_TYPES:
                return ()
            node = node.type_cast.arg
        if is_a(node, "a_array_expr"):
            return self._sources_of(node.a_array_expr.elements)
        if is_a(node, "param_ref"):
            return (Parameter(self._statement.names[node.param_ref.number - 1], many=True),)
        return ()


def source_of(node: Tree, statement: Statement) -> Source | None:
    """Return what a Node contributes if it is a constant, a parameter, or a constant cast to a key type; else None."""
    match kind(node):
        case "a_const":
            return _constant(node.a_const)
        case "param_ref":
            name = statement.names[node.param_ref.number - 1]
            return Parameter(name, many=name in statement.lists)
        case "type_cast":
            return _cast(node.type_cast, statement)
    return None


def _cast(cast: Tree, statement: Statement) -> Source | None:
    """A constant keeps its value through a cast to a key type without modifier or bounds.

    A parameter may not: its value may be anything, and numeric 42.4 is 42 as an integer.
    """
    wanted = _CAST_TYPES.get(names(cast.type_name.names)[-1])
    source = source_of(cast.arg, statement)
    if wanted is None or cast.type_name.typmods or cast.type_name.array_bounds or not isinstance(source, Constant):
        return None
    value = key_value(source.value, wanted)
    return None if value is UNKNOWN else Constant(value)


def _operands(node: Tree) -> tuple[Tree, Tree] | None:
    if is_a(node, "a_expr") and node.a_expr.kind == pb.AEXPR_OP and names(node.a_expr.name) == ("=",):
        return node.a_expr.lexpr, node.a_expr.rexpr
    return None


def _constant(constant: Tree) -> Constant | None:
    match constant.WhichOneof("val"):
        case "ival":
            return Constant(constant.ival.ival)
        case "fval":
            text = constant.fval.fval
            return Constant(int(text)) if len(text) <= MAX_DIGITS and text.lstrip("-").isdecimal() else None
        case "sval":
            return Constant(constant.sval.sval)
    return None


def key_value(value: object, key_type: KeyType) -> object:
    """Return what *value*, as a literal compared with a column of *key_type*, is in that type; `UNKNOWN` if not sure.

    Strings are untyped literals to PostgreSQL: it reads them by the column's type, in more spellings than are read
    here.
    """
    match key_type:
        case KeyType.INTEGER:
            if type(value) is int:
                return value if -(1 << 63) <= value < 1 << 63 else UNKNOWN
            if type(value) is str and len(value) <= MAX_DIGITS and _INTEGER.fullmatch(value):
                return key_value(int(value), key_type)
        case KeyType.TEXT:
            if type(value) is str and "\0" not in value:
                return value
        case KeyType.UUID:
            if type(value) is uuid.UUID:
                return value
            if type(value) is str and _UUID.fullmatch(value):
                return uuid.UUID(value)
        case KeyType.BYTEA:
            if type(value) is bytes:
                return value
        case KeyType.DATE:
            if type(value) is datetime.date:
                return value
            if type(value) is str and _DATE.fullmatch(value):
                try:
                    return datetime.date.fromisoformat(value)
                except ValueError:
                    return UNKNOWN
    return UNKNOWN


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
    columns = [
        list(_values(sources, key_type, parameters)) for sources, key_type in zip(pin.columns, types, strict=True)
    ]
    if any(value is UNKNOWN for values in columns for value in values) or not all(columns):
        return None
    if len(columns) == 1:
        return frozenset(topology.place(value, types).partition.id for value in columns[0])
    if all(len(values) == 1 for values in columns):
        return frozenset({topology.place(tuple(values[0] for values in columns), types).partition.id})
    return None


def _values(sources: Sources, key_type: KeyType, parameters: Mapping[str, Any]) -> Iterator[object]:
    for source in sources:
        if isinstance(source, Constant):
            yield key_value(source.value, key_type)
            continue
        value = parameters.get(source.name)
        if not source.many:
            yield key_value(value, key_type)
        elif isinstance(value, list | tuple):
            for element in value:
                if element is not None:
                    yield key_value(element, key_type)
        else:
            yield UNKNOWN
