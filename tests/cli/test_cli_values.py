"""Values, sizes, times, and the hiding of passwords."""

from __future__ import annotations

import datetime
import json
import uuid
from decimal import Decimal

import pytest

from shardpool.cli.failures import hide_passwords
from shardpool.cli.keys import read_key
from shardpool.cli.values import cell, duration, parse_value, to_json
from shardpool.topology.key import KeyType
from shardpool.topology.shard_map import Placement, Shard, ShardMap, Topology, even_ranges, new_partition
from shardpool.topology.tables import Table


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("-7", -7),
        ("1.50", Decimal("1.50")),
        ("true", True),
        ("null", None),
        ("'42'", "42"),
        ("''", ""),
        ("01067", "01067"),
        ("1_000", "1_000"),
        ("1e5", "1e5"),
        ("nan", "nan"),
        ("٤٢", "٤٢"),
        ("", ""),
        ("True", "True"),
    ],
)
def test_parse_value(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_cells() -> None:
    day = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
    values = [None, True, Decimal("1E+2"), day, day.date(), b"\x00\xff", {"a": [1]}, uuid.UUID(int=1), 1.5]
    assert [cell(value) for value in values] == [
        "",
        "t",
        "100",
        "2026-01-02 03:04:00+00:00",
        "2026-01-02",
        "\\x00ff",
        '{"a": [1]}',
        "00000000-0000-0000-0000-000000000001",
        "1.5",
    ]


def test_json_loses_nothing() -> None:
    document = {"n": Decimal("0.10"), "f": float("inf"), "nested": [{"d": datetime.date(2026, 1, 2)}], 1: {2, 1}}
    assert json.loads(to_json(document)) == {"n": "0.10", "f": "inf", "nested": [{"d": "2026-01-02"}], "1": [1, 2]}


def test_durations() -> None:
    found = [duration(it) for it in (0.000042, 0.0042, 0.042, 4.2, 187)]
    assert found == ["42 µs", "4.2 ms", "42 ms", "4.2 s", "3:07 min"]


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:S3cret@h/d",
        "connecting to 'postgresql+psycopg2://u:S3cr@et:x@h:5432/d' failed",
        "host=h password=S3cret dbname=d",
        "postgresql://h/d?password=S3cret&sslmode=require",
        "password = 'S3cret word'",
    ],
)
def test_passwords_are_hidden(text: str) -> None:
    hidden = hide_passwords(text)
    assert "S3cr" not in hidden
    assert "***" in hidden


def test_other_text_stays() -> None:
    text = "[SP101] see postgresql://u@h:5432/d, a@b: c"
    assert hide_passwords(text) == text


def topology(*types: KeyType) -> Topology:
    placements = [Placement(new_partition("k", n, low, high), "s", 1) for n, (low, high) in enumerate(even_ranges(2))]
    shard_map = ShardMap("k", 1, {"s": Shard("s", "")}, placements)
    return Topology("k", shard_map, {"t": Table("t", (), (), tuple("abc"[: len(types)]), types)})


def test_keys_have_the_type_of_the_column() -> None:
    assert read_key("42", topology(KeyType.INTEGER)) == 42
    assert read_key("42", topology(KeyType.TEXT)) == "42"
    assert read_key("2026-01-02", topology(KeyType.DATE)) == datetime.date(2026, 1, 2)
    assert read_key("\\x00ff", topology(KeyType.BYTEA)) == b"\x00\xff"
    assert read_key(str(uuid.UUID(int=7)), topology(KeyType.UUID)) == uuid.UUID(int=7)
    assert read_key("7,seven", topology(KeyType.INTEGER, KeyType.TEXT)) == (7, "seven")
