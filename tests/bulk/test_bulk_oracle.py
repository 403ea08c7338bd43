"""Loads against the oracle: the same bytes by one plain COPY into one table of one server.

Where that succeeds, a load has the same rows, each in the partition of its key; where it fails, so does the load, and
leaves nothing. The cases are made by seed, with small chunks and batches, so that both end anywhere.
"""

from __future__ import annotations

import datetime
import io
import random
import re
import uuid
from decimal import Decimal
from typing import Any

import psycopg2
import pytest

from shardpool.bulk import records
from shardpool.errors import BadRow, LoadError
from tests.bulk.bulk_tools import SHARDED, Shop

#: Pieces of text that are hard on a reader of fields.
PIECES = [
    "",
    "a",
    " ",
    "é",
    "日本",
    "\N{GRINNING FACE}",
    '"',
    '""',
    ",",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\\",
    "\\N",
    "\\.",
    "|",
    "'",
    "NULL",
]


def nasty_text(rng: random.Random) -> str:
    return "".join(rng.choices(PIECES, k=rng.randrange(5)))


def value(rng: random.Random, type_: str) -> Any:
    match type_.partition("(")[0]:
        case "smallint" | "integer" | "bigint":
            return rng.choice([rng.randrange(10), rng.randrange(-30_000, 30_000)])
        case "text":
            return nasty_text(rng)
        case "character varying":
            return nasty_text(rng)[:5] + rng.choice(["", " " * 7])
        case "boolean":
            return rng.random() < 0.5
        case "uuid":
            return uuid.UUID(int=rng.getrandbits(128))
        case "bytea":
            return rng.randbytes(rng.randrange(5))
        case "date":
            return datetime.date(2000, 1, 1) + datetime.timedelta(days=rng.randrange(-9999, 9999))
        case "numeric":
            return Decimal(rng.randrange(-99999, 99999)) / 100
    raise AssertionError(type_)


def random_rows(rng: random.Random, table: str, count: int) -> list[dict[str, Any]]:
    columns, key = SHARDED[table]
    return [
        {
            name: None if name not in key and name != "n" and rng.random() < 0.2 else value(rng, type_)
            for name, type_ in columns.items()
        }
        for _ in range(count)
    ]


def as_text(value: Any) -> str:
    return "\\x" + value.hex() if isinstance(value, bytes) else str(value)


def csv_field(rng: random.Random, value: Any, delimiter: str, null: str) -> str:
    """Write a value in one of the ways that CSV has for it."""
    if value is None:
        return null
    text = as_text(value)
    must = text == null or any(sign in text for sign in (delimiter, '"', "\n", "\r"))
    if not must and rng.random() < 0.6:
        return text
    if not must and rng.random() < 0.3:
        at = rng.randrange(len(text) + 1)
        return text[:at] + '"' + text[at:] + '"'
    return '"' + text.replace('"', '""') + '"'


def text_field(rng: random.Random, value: Any, delimiter: str, null: str) -> str:
    """Write a value in one of the ways that the text format has for it."""
    if value is None:
        return null
    text = as_text(value)
    written = ""
    for sign in text:
        if sign in "\n\r":
            written += rng.choice([{"\n": "\\n", "\r": "\\r"}[sign], "\\" + sign])
        elif sign == delimiter or sign == "\\":
            written += "\\" + sign
        elif sign.isascii() and rng.random() < 0.05:
            written += rng.choice([f"\\{ord(sign):03o}", f"\\x{ord(sign):02x}"])
        else:
            written += sign
    return "\\" + written if written == null else written


def write(rng: random.Random, rows: list[dict[str, Any]], format: str, delimiter: str, null: str, end: str) -> bytes:
    field = csv_field if format == "csv" else text_field
    lines = [delimiter.join(field(rng, value, delimiter, null) for value in row.values()) for row in rows]
    if not rows:
        return b""
    data = end.join(lines).encode()
    return data + end.encode() if rng.random() < 0.7 else data


def damage(rng: random.Random, data: bytes) -> bytes:
    """Change one place."""
    at = rng.randrange(len(data) + 1)
    junk = [b'"', b"\\", b"\r", b"\n", b"\r\n", b",", b"\t", b"\0", b"\xff", b"\\.", b"\n\\.\n", b"x", b"\\\n", b" "]
    return data[:at] + rng.choice(junk) + data[at + rng.randrange(3) :]


DAMAGED = ["item", "late", "by_text", "by_varchar", "by_pair", "by_bytea", "by_smallint", "single"]


def options(rng: random.Random) -> tuple[str, str, str]:
    """Return format, delimiter and null."""
    if rng.random() < 0.5:
        return "csv", rng.choice([",", "|", ";"]), rng.choice(["", "NULL", "-"])
    return "text", rng.choice(["\t", "|", ","]), rng.choice(["\\N", "", "-"])


def load(shop: Shop, rng: random.Random, table: str, data: bytes, format: str, delimiter: str, null: str) -> int:
    result = shop.load(
        table,
        io.BytesIO(data),
        format=format,
        delimiter=delimiter,
        null=null,
        header=False,
        batch_bytes=rng.choice([1, 50, 500, 1 << 20]),
    )
    assert sum(result.partitions.values()) == result.rows
    return result.rows


@pytest.fixture(params=[3, 17, 200, 1 << 20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(records, "CHUNK_BYTES", request.param)
    return int(request.param)


@pytest.mark.parametrize("table", [table for table in SHARDED if table not in ("things", "late")])
def test_same_rows_as_one_plain_copy(shop: Shop, table: str, chunk: int) -> None:
    for seed in range(3):
        rng = random.Random(f"{table} {chunk} {seed}")
        shop.empty()
        rows = random_rows(rng, table, rng.choice([0, 1, 60]))
        format, delimiter, null = options(rng)
        data = write(rng, rows, format, delimiter, null, rng.choice(["\n", "\r\n"]))
        if format == "csv" and any(line.strip(b"\r") == b"\\." for line in data.split(b"\n")):
            continue  # refused on purpose
        shop.plain_copy(table, data, f"FORMAT {format}, DELIMITER '{delimiter}', NULL '{null}'")
        assert load(shop, rng, table, data, format, delimiter, null) == len(shop.plain_rows(table))
        assert shop.rows(table) == shop.plain_rows(table)


@pytest.mark.parametrize("seed", range(12))
def test_same_verdict_on_damaged_files(shop: Shop, seed: int, chunk: int) -> None:
    """One change to a good file: PostgreSQL may take it in another way, or refuse it; so must the load."""
    rng = random.Random(f"damage {seed} {chunk}")
    for _ in range(12):
        shop.empty()
        table = rng.choice(DAMAGED)
        format, delimiter, null = options(rng)
        data = write(
            rng, random_rows(rng, table, rng.randrange(1, 12)), format, delimiter, null, rng.choice(["\n", "\r\n"])
        )
        data = damage(rng, data)
        try:
            shop.plain_copy(table, data, f"FORMAT {format}, DELIMITER '{delimiter}', NULL '{null}'")
        except psycopg2.Error:
            with pytest.raises(LoadError):
                load(shop, rng, table, data, format, delimiter, null)
            assert shop.rows(table) == []
            continue
        try:
            load(shop, rng, table, data, format, delimiter, null)
        except BadRow as error:
            assert refused_on_purpose(error, data), data
            assert shop.rows(table) == []
        else:
            assert shop.rows(table) == shop.plain_rows(table), data


def refused_on_purpose(error: BadRow, data: bytes) -> bool:
    """What COPY takes and a load does not: a NULL key, a form of key that is not guessed, ``\\.`` in CSV, and carriage
    returns alone as line ends.
    """
    if re.search(rb"\r(?!\n)", data) and re.search("carriage return|marker", error.reason):
        return True
    return bool(re.search("is NULL|not bytea in the hex format|marker to some servers", error.reason))


@pytest.mark.parametrize("table", [table for table in SHARDED if table not in ("things", "late")])
def test_rows_arrive_as_the_python_values_they_were(shop: Shop, table: str) -> None:
    rng = random.Random(table)
    rows = random_rows(rng, table, 200)
    columns, _ = SHARDED[table]
    expected = sorted(repr(tuple(stored(row[name], type_) for name, type_ in columns.items())) for row in rows)
    assert shop.load(table, iter(rows), batch_bytes=300).rows == 200
    assert shop.rows(table) == expected
    shop.empty()
    shop.load(table, [tuple(row.values()) for row in rows])
    backwards = list(columns)[::-1]
    shop.load(table, [[row[name] for name in backwards] for row in rows], columns=backwards)
    assert shop.rows(table) == sorted(expected * 2)


def stored(value: Any, type_: str) -> Any:
    if value is not None and type_ == "character varying(5)":
        return value[:5]
    return value.quantize(Decimal("0.01")) if isinstance(value, Decimal) else value
