"""From the text of a key to its partition, in the words that PostgreSQL's input functions understand.

What PostgreSQL reads in one way only is read here; forms that depend on its version or on settings (``0x2a``,
``1_000``, dates other than ``yyyy-mm-dd``, bytea in the escape format) are refused rather than guessed.
"""

from __future__ import annotations

import datetime
import re
import struct
import uuid
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TypeVar

from shardpool.bulk.fields import Fields
from shardpool.errors import KeyTypeMismatch
from shardpool.topology.key import KeyType, KeyValue, hash_bytes, hash_key
from shardpool.topology.tables import Column, Table

CACHE_ENTRIES = 1 << 16
CACHE_KEY_BYTES = 64

#: The length before each part of a composite key: see `shardpool.topology.key`.
_pack_length = struct.Struct("<I").pack
#: The bytes of an integer: ibid. So many digits always fit.
_pack_integer, PLAIN_DIGITS = struct.Struct("<q").pack, 18

_INTEGER = re.compile(rb"[ \t-\r]*[+-]?[0-9]+[ \t-\r]*")
_UUID = re.compile(rb"(\{)?[0-9a-fA-F]{4}(?:-?[0-9a-fA-F]{4}){7}(?(1)\})")
_DATE = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_HEX = re.compile(rb"\\x(?:[0-9a-fA-F]{2})*")
_VARCHAR = re.compile(r"character varying\((\d+)\)")


class KeyFault(Exception):
    """A key that names no partition; the text says why."""


def _integer(field: bytes) -> int:
    if not (field.isdigit() or _INTEGER.fullmatch(field)):
        raise KeyFault("not a decimal integer")
    try:
        return int(field)
    except ValueError:  # Python's limit of digits
        raise KeyFault("out of range for an integer") from None


def _text(field: bytes) -> str:
    try:
        return field.decode()
    except UnicodeDecodeError:
        raise KeyFault("not valid UTF-8") from None


def _uuid(field: bytes) -> uuid.UUID:
    if not _UUID.fullmatch(field):
        raise KeyFault("not a uuid")
    return uuid.UUID(field.decode())


def _bytea(field: bytes) -> bytes:
    if not _HEX.fullmatch(field):
        raise KeyFault(r"not bytea in the hex format \x..")
    return bytes.fromhex(field[2:].decode())


def _date(field: bytes) -> datetime.date:
    if not _DATE.fullmatch(field):
        raise KeyFault("not a date yyyy-mm-dd")
    try:
        return datetime.date.fromisoformat(field.decode())
    except ValueError:
        raise KeyFault("not a date of the calendar") from None


_READERS: dict[KeyType, Callable[[bytes], KeyValue]] = {
    KeyType.INTEGER: _integer,
    KeyType.TEXT: _text,
    KeyType.UUID: _uuid,
    KeyType.BYTEA: _bytea,
    KeyType.DATE: _date,
}


def stored_key(column: Column, value: str) -> str:
    """Return a text key as the server stores it: varchar(n) drops spaces beyond its length, they must not be hashed."""
    limit = _VARCHAR.fullmatch(column.type)
    if limit is None or len(value) <= int(limit[1]):
        return value
    clipped = value[: int(limit[1])]
    if value[len(clipped) :].strip(" "):
        raise KeyFault(f"too long for type {column.type}")
    return clipped


class _Part(dict[bytes, bytes]):
    """Raw field of one key column -> the canonical bytes of its value. A bounded cache, as values repeat."""

    def __init__(self, fields: Fields, column: Column, key_type: KeyType) -> None:
        super().__init__()
        self._decode = fields.decode
        self._column = column
        self._read = _READERS[key_type]
        self._encode = key_type.encode
        self._clips = _VARCHAR.fullmatch(column.type) is not None

    def __missing__(self, raw: bytes) -> bytes:
        data = self.canonical(raw)
        remember(self, raw, data)
        return data

    def canonical(self, raw: bytes) -> bytes:
        """Return the bytes to be hashed. Raise `KeyFault`, or `Ambiguous` if *raw* is not a whole field."""
        field = self._decode(raw)
        if field is None:
            raise KeyFault(f"the partition key {self._column.name} is NULL")
        try:
            value = self._read(field)
            return self._encode(stored_key(self._column, value) if self._clips else value)
        except KeyFault as fault:
            shown = field[:60].decode(errors="replace")
            raise KeyFault(f'column {self._column.name}: "{shown}" is {fault}') from None
        except KeyTypeMismatch as error:
            raise KeyFault(f"column {self._column.name}: {error}") from None


class Places(dict[bytes, int]):
    """Raw field of a key of one column -> index of its partition, among *lows*, the lower bounds of the hash ranges.

    A bounded cache. ``places[raw]`` raises as `_Part.canonical` does.
    """

    def __init__(self, fields: Fields, table: Table, lows: Sequence[int]) -> None:
        super().__init__()
        (part,) = _parts(fields, table)
        self._canonical = part.canonical
        self._lows = lows
        self._digits = table.key_types == (KeyType.INTEGER,) and not fields.null.isdigit()

    def __missing__(self, raw: bytes) -> int:
        # Plain numbers, which most keys are, need none of the words that could be wrong with others.
        plain = self._digits and len(raw) <= PLAIN_DIGITS and raw.isdigit()
        data = _pack_integer(int(raw)) if plain else self._canonical(raw)
        place = bisect_right(self._lows, hash_bytes(data)) - 1
        remember(self, raw, place)
        return place


class CompositePlaces:
    """The same for a key of several columns: ``places[raws]``, in the order of the key."""

    def __init__(self, fields: Fields, table: Table, lows: Sequence[int]) -> None:
        self._parts = _parts(fields, table)
        self._lows = lows

    def __getitem__(self, raws: tuple[bytes, ...]) -> int:
        data = b""
        for part, raw in zip(self._parts, raws, strict=True):
            canonical = part[raw]
            data += _pack_length(len(canonical)) + canonical
        return bisect_right(self._lows, hash_bytes(data)) - 1


def _parts(fields: Fields, table: Table) -> list[_Part]:
    return [
        _Part(fields, column, key_type) for column, key_type in zip(_key_columns(table), table.key_types, strict=True)
    ]


def _key_columns(table: Table) -> list[Column]:
    return [column for name in table.key if (column := table.column(name)) is not None]


_Value = TypeVar("_Value")


def remember(cache: dict[bytes, _Value], raw: bytes, value: _Value) -> None:
    """Keep an entry of a cache that stays small."""
    if len(raw) <= CACHE_KEY_BYTES:
        if len(cache) >= CACHE_ENTRIES:
            cache.clear()
        cache[raw] = value


class KeyHash:
    """The index of the partition of a key that is given as Python values."""

    def __init__(self, table: Table, lows: Sequence[int]) -> None:
        self._lows = lows
        self._types = table.key_types
        self._columns = _key_columns(table)

    def place(self, values: Sequence[KeyValue]) -> int:
        """Return the index for the values of the key's columns. Raise `KeyFault`."""
        parts = []
        for column, value in zip(self._columns, values, strict=True):
            if value is None:
                raise KeyFault(f"the partition key {column.name} is NULL")
            parts.append(stored_key(column, value) if isinstance(value, str) else value)
        try:
            position = hash_key(parts[0] if len(self._types) == 1 else tuple(parts), self._types)
        except KeyTypeMismatch as error:
            raise KeyFault(str(error)) from None
        return bisect_right(self._lows, position) - 1
