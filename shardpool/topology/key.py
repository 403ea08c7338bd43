"""Partition keys: from a Python value to a 32-bit hash, through bytes that any language can reproduce.

The bytes follow the *column's SQL type*, never the Python type alone, so that values which are equal in SQL have equal
bytes. Published test vectors: ``schemas/key_vectors.json``.

========================  =======================================================
int2, int4, int8          8 bytes, little endian, two's complement
text, varchar             UTF-8
uuid                      its 16 bytes
bytea                     itself
date                      4 bytes, little endian, two's complement: days since 2000-01-01 (PostgreSQL's own)
composite                 for each part: length as 4 bytes little endian, then the part's bytes
========================  =======================================================

The hash is MurmurHash3 x86 32-bit with seed 0, unsigned (https://github.com/aappleby/smhasher).
"""

from __future__ import annotations

import datetime
import enum
import struct
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import mmh3

from shardpool.errors import KeyTypeMismatch

#: A single value, or a tuple of them for a composite key.
KeyValue: TypeAlias = Any

HASH_SPACE = 1 << 32

_EPOCH = datetime.date(2000, 1, 1).toordinal()
_pack_int8 = struct.Struct("<q").pack
_pack_int4 = struct.Struct("<i").pack
_pack_length = struct.Struct("<I").pack


def _integer(value: KeyValue) -> bytes:
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, int)):
        raise KeyTypeMismatch(value, "int")
    try:
        return _pack_int8(value)
    except struct.error:
        raise KeyTypeMismatch(value, "int within 64 bits") from None


def _text(value: KeyValue) -> bytes:
    if not isinstance(value, str):
        raise KeyTypeMismatch(value, "str")
    if "\0" in value:
        raise KeyTypeMismatch(value, "str without NUL characters")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise KeyTypeMismatch(value, "str of valid Unicode") from None


def _uuid(value: KeyValue) -> bytes:
    if not isinstance(value, uuid.UUID):
        raise KeyTypeMismatch(value, "uuid.UUID")
    return value.bytes


def _bytea(value: KeyValue) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise KeyTypeMismatch(value, "bytes")
    return bytes(value)


def _date(value: KeyValue) -> bytes:
    if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
        raise KeyTypeMismatch(value, "datetime.date")
    return _pack_int4(value.toordinal() - _EPOCH)


class KeyType(enum.Enum):
    """A class of SQL types whose values compare equal across the class and hash alike.

    `encode` turns a Python value into its bytes, and raises `KeyTypeMismatch` for one of another type.
    """

    INTEGER = "integer"
    TEXT = "text"
    UUID = "uuid"
    BYTEA = "bytea"
    DATE = "date"

    encode: Callable[[KeyValue], bytes]


# Attributes, not a dictionary: hashing an enum's member costs as much as all the rest of routing.
KeyType.INTEGER.encode = _integer
KeyType.TEXT.encode = _text
KeyType.UUID.encode = _uuid
KeyType.BYTEA.encode = _bytea
KeyType.DATE.encode = _date


#: SQL type name as `format_type` prints it, without modifier -> key type. Types that can be equal in SQL and yet differ
#: in bytes (numeric, float, char(n), citext, timestamps with sub-microsecond history, ...) are absent on purpose.
KEY_TYPES: dict[str, KeyType] = {
    "smallint": KeyType.INTEGER,
    "integer": KeyType.INTEGER,
    "bigint": KeyType.INTEGER,
    "text": KeyType.TEXT,
    "character varying": KeyType.TEXT,
    "uuid": KeyType.UUID,
    "bytea": KeyType.BYTEA,
    "date": KeyType.DATE,
}


def key_type_of(value: KeyValue) -> tuple[KeyType, ...]:
    """Return the key type that a Python value stands for when no table says it. Raise `KeyTypeMismatch` for others."""
    if isinstance(value, tuple):
        return tuple(key_type_of(part)[0] for part in value)
    if isinstance(value, bool):
        raise KeyTypeMismatch(value, "int, str, uuid.UUID, bytes or datetime.date")
    for python_type, key_type in (
        (int, KeyType.INTEGER),
        (str, KeyType.TEXT),
        (uuid.UUID, KeyType.UUID),
        (bytes, KeyType.BYTEA),
    ):
        if isinstance(value, python_type):
            return (key_type,)
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return (KeyType.DATE,)
    raise KeyTypeMismatch(value, "int, str, uuid.UUID, bytes or datetime.date")


def canonical_bytes(value: KeyValue, key_types: Sequence[KeyType]) -> bytes:
    """Return the bytes that are hashed for *value*. Raise `KeyTypeMismatch` if its type is not the column's."""
    if len(key_types) == 1:
        return key_types[0].encode(value)
    if not isinstance(value, tuple) or len(value) != len(key_types):
        raise KeyTypeMismatch(value, f"a tuple of {len(key_types)} values")
    parts = [key_type.encode(part) for key_type, part in zip(key_types, value, strict=True)]
    return b"".join(_pack_length(len(part)) + part for part in parts)


def hash_bytes(data: bytes) -> int:
    """Return the position of canonical bytes in the hash space, 0 <= position < 2**32."""
    return mmh3.hash(data, 0, False)


def hash_key(value: KeyValue, key_types: Sequence[KeyType]) -> int:
    """Return the position of *value* in the hash space. Raise `KeyTypeMismatch` as `canonical_bytes` does."""
    if len(key_types) == 1:
        return mmh3.hash(key_types[0].encode(value), 0, False)
    return mmh3.hash(canonical_bytes(value, key_types), 0, False)
