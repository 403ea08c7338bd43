"""A partition key from the command line, as a value of the column's type."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import date

import typer

from shardpool.cli.values import parse_value
from shardpool.topology.key import KeyType, KeyValue
from shardpool.topology.shard_map import Topology

_READERS: dict[KeyType, Callable[[str], object]] = {
    KeyType.INTEGER: int,
    KeyType.TEXT: str,
    KeyType.UUID: uuid.UUID,
    KeyType.BYTEA: lambda text: bytes.fromhex(text.removeprefix("\\x")),
    KeyType.DATE: date.fromisoformat,
}


def read_key(text: str, topology: Topology) -> KeyValue:
    """Read a key: by the type of the keyspace's keys if they have one in common, else by its looks.

    The parts of a composite key are separated by commas.
    """
    if len(topology.key_types) != 1:
        return parse_value(text)
    (types,) = topology.key_types
    parts = text.split(",") if len(types) > 1 else [text]
    if len(parts) != len(types):
        raise typer.BadParameter(f"got --key {text!r}, expected {len(types)} parts separated by commas")
    try:
        values = tuple(_READERS[kind](part) for kind, part in zip(types, parts, strict=True))
    except ValueError as error:
        names = ", ".join(kind.value for kind in types)
        raise typer.BadParameter(f"got --key {text!r}, expected {names}") from error
    return values if len(types) > 1 else values[0]
