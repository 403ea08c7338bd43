"""Key bytes and their hash, against the published vectors and the rules of SQL equality."""

from __future__ import annotations

import datetime
import json
import random
import uuid
from typing import Any

import pytest

from shardpool.config import schema_path
from shardpool.errors import KeyTypeMismatch
from shardpool.topology.key import KeyType, canonical_bytes, hash_key, key_type_of

VECTORS = json.loads(schema_path("key_vectors.json").read_text(encoding="utf-8"))["vectors"]

READ = {
    "integer": int,
    "text": str,
    "uuid": uuid.UUID,
    "bytea": bytes.fromhex,
    "date": datetime.date.fromisoformat,
}


def _value(vector: dict[str, Any]) -> Any:
    parts = tuple(READ[name](text) for name, text in zip(vector["types"], vector["values"], strict=True))
    return parts if len(parts) > 1 else parts[0]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: "-".join(vector["types"] + vector["values"])[:40])
def test_published_vectors(vector: dict[str, Any]) -> None:
    types = [KeyType(name) for name in vector["types"]]
    assert canonical_bytes(_value(vector), types).hex() == vector["bytes"]
    assert hash_key(_value(vector), types) == vector["hash"]


def murmur3(data: bytes) -> int:
    """MurmurHash3 x86 32 with seed 0, written from the public description: a second opinion on mmh3."""
    mask = 0xFFFFFFFF
    h = 0
    rounded = len(data) - len(data) % 4
    for start in range(0, rounded, 4):
        k = int.from_bytes(data[start : start + 4], "little") * 0xCC9E2D51 & mask
        k = (k << 15 | k >> 17) & mask
        h ^= k * 0x1B873593 & mask
        h = (h << 13 | h >> 19) & mask
        h = h * 5 + 0xE6546B64 & mask
    tail = int.from_bytes(data[rounded:], "little")
    if len(data) % 4:
        k = tail * 0xCC9E2D51 & mask
        k = (k << 15 | k >> 17) & mask
        h ^= k * 0x1B873593 & mask
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & mask
    h = (h ^ h >> 13) * 0xC2B2AE35 & mask
    return h ^ h >> 16


def test_hash_is_murmur3() -> None:
    generator = random.Random(7)
    for _ in range(2000):
        value = generator.randint(-(1 << 63), (1 << 63) - 1)
        assert hash_key(value, [KeyType.INTEGER]) == murmur3(canonical_bytes(value, [KeyType.INTEGER]))
        text = "".join(map(chr, generator.choices(range(1, 0xD7FF), k=generator.randint(0, 9))))
        assert hash_key(text, [KeyType.TEXT]) == murmur3(text.encode())


@pytest.mark.parametrize(
    ("key_type", "value"),
    [
        (KeyType.INTEGER, "42"),
        (KeyType.INTEGER, True),
        (KeyType.INTEGER, 42.0),
        (KeyType.INTEGER, None),
        (KeyType.INTEGER, 1 << 63),
        (KeyType.TEXT, 42),
        (KeyType.TEXT, b"a"),
        (KeyType.TEXT, "a\0b"),
        (KeyType.TEXT, "\ud800"),
        (KeyType.UUID, "7d444840-9dc0-11d1-b245-5ffdce74fad2"),
        (KeyType.BYTEA, "a"),
        (KeyType.DATE, datetime.datetime(2020, 1, 1)),
        (KeyType.DATE, "2020-01-01"),
    ],
)
def test_a_value_of_another_type_is_an_error(key_type: KeyType, value: Any) -> None:
    with pytest.raises(KeyTypeMismatch):
        hash_key(value, [key_type])


def test_composite_keys_do_not_run_together() -> None:
    types = [KeyType.TEXT, KeyType.TEXT]
    assert canonical_bytes(("ab", "c"), types) != canonical_bytes(("a", "bc"), types)
    with pytest.raises(KeyTypeMismatch):
        canonical_bytes(("a",), types)


def test_key_type_of_python_values() -> None:
    assert key_type_of(1) == (KeyType.INTEGER,)
    assert key_type_of(("a", 1)) == (KeyType.TEXT, KeyType.INTEGER)
    for value in (True, 1.5, None, datetime.datetime(2020, 1, 1)):
        with pytest.raises(KeyTypeMismatch):
            key_type_of(value)
