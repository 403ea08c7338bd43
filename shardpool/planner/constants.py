"""Constants: the values that literals and parameters surely have in a key's type.

A constant counts only if its value in the *column's type* is certain: ``42`` and ``'42'`` for a bigint, not ``42.0``.
"""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shardpool.planner.ast import Tree, kind, names
from shardpool.planner.statement import Statement
from shardpool.topology.key import KeyType

_INTEGER = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
CAST_TYPES = {
    "int2": KeyType.INTEGER,
    "int4": KeyType.INTEGER,
    "int8": KeyType.INTEGER,
    "text": KeyType.TEXT,
    "uuid": KeyType.UUID,
    "date": KeyType.DATE,
}
#: Longer texts are no 64-bit integers, or oddly written ones.
MAX_DIGITS = 25


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
    wanted = CAST_TYPES.get(names(cast.type_name.names)[-1])
    source = source_of(cast.arg, statement)
    if wanted is None or cast.type_name.typmods or cast.type_name.array_bounds or not isinstance(source, Constant):
        return None
    value = key_value(source.value, wanted)
    return None if value is UNKNOWN else Constant(value)


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


def values_of(sources: Sources, key_type: KeyType, parameters: Mapping[str, Any]) -> Iterator[object]:
    for source in sources:
        if isinstance(source, Constant):
            yield key_value(source.value, key_type)
            continue
        value = parameters.get(source.name, UNKNOWN)
        if value is None:
            continue
        if not source.many:
            yield key_value(value, key_type)
        elif isinstance(value, list | tuple):
            for element in value:
                if element is not None:
                    yield key_value(element, key_type)
        else:
            yield UNKNOWN
