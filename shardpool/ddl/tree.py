"""Reading PostgreSQL's parse trees (protobuf messages of `postgast`): names, types, equality."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

import postgast
from google.protobuf.message import Message
from postgast import pg_query_pb2 as pb

_M = TypeVar("_M", bound=Message)

#: Fields that say where something stands in the text, and nothing about what it is.
_POSITIONS = (
    "location",
    "stmt_location",
    "stmt_len",
    "name_location",
    "list_start",
    "list_end",
    "rexpr_list_start",
    "rexpr_list_end",
)

#: PostgreSQL's own names of types -> the names that `format_type` prints.
_TYPE_NAMES = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "varchar": "character varying",
    "bpchar": "character",
    "float4": "real",
    "float8": "double precision",
    "bool": "boolean",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "time": "time without time zone",
    "timetz": "time with time zone",
    "varbit": "bit varying",
}


def inner(node: pb.Node) -> Message:
    """Return the message that a `Node` wraps."""
    message: Message = postgast.unwrap_node(node)
    return message


def find(message: Message, kind: type[_M]) -> Iterator[_M]:
    """Yield *message* and all messages below it that are of *kind*."""
    for _, child in postgast.walk(message):
        if isinstance(child, kind):
            yield child


def strings(nodes: Iterable[pb.Node]) -> list[str]:
    """Return the strings of a list of `String` nodes: a qualified name, or the columns of a constraint."""
    return [node.string.sval for node in nodes]


def type_name(name: pb.TypeName) -> str:
    """Return a type as `format_type` prints it, without modifier; a user's type as it is written."""
    parts = strings(name.names)
    system = parts[0] == "pg_catalog" and len(parts) == 2
    last = parts[-1]
    text = _TYPE_NAMES.get(last, last) if system or len(parts) == 1 else ".".join(parts)
    return text + "[]" * len(name.array_bounds)


def statement_tree(kind: str, message: Message) -> pb.ParseResult:
    """Wrap one statement in a parse result, for `deparse`."""
    tree = pb.ParseResult(version=180004)
    getattr(tree.stmts.add().stmt, kind).CopyFrom(message)
    return tree


def canonical(message: Message) -> bytes:
    """Return bytes that are equal for equal statements, wherever their parts stand in the text."""
    copy = type(message)()
    copy.CopyFrom(message)
    for _, child in postgast.walk(copy):
        for field in _POSITIONS:
            if field in child.DESCRIPTOR.fields_by_name:
                child.ClearField(field)
    return copy.SerializeToString(deterministic=True)


def digest(message: Message) -> str:
    """Return a short hash of a statement's meaning to the grammar; what does not change the outcome is left out."""
    copy = type(message)()
    copy.CopyFrom(message)
    for field in ("if_not_exists", "replace", "missing_ok"):
        if field in copy.DESCRIPTOR.fields_by_name:
            copy.ClearField(field)
    return hashlib.sha256(type(copy).__name__.encode() + canonical(copy)).hexdigest()[:32]
