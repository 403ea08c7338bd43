"""Keys are read as PostgreSQL reads them: what is accepted has the place of the value that the server stores."""

from __future__ import annotations

import datetime
import io
import random
import uuid
from typing import Any

import pytest

from shardpool.bulk import keys
from shardpool.bulk.fields import Fields
from shardpool.bulk.keys import CACHE_ENTRIES, CompositePlaces, KeyFault, KeyHash, Places
from shardpool.bulk.layout import Layout
from shardpool.topology.key import KEY_TYPES, hash_key
from shardpool.topology.tables import Column, Table
from tests.bulk.bulk_tools import Shop

CSV = Fields(Layout("csv", b",", b"", header=False))

#: As many lower bounds as make a place tell keys apart.
LOWS = list(range(0, 1 << 32, 1 << 12))


def table(*types: str) -> Table:
    columns = tuple(Column(f"k{number}", type_) for number, type_ in enumerate(types))
    key_types = tuple(KEY_TYPES[column.base_type] for column in columns)
    return Table("t", columns, key=tuple(column.name for column in columns), key_types=key_types)


def place_of(value: Any, *types: str) -> int:
    return hash_key(value, table(*types).key_types) >> 12


def quoted(text: str) -> bytes:
    return ('"' + text.replace('"', '""') + '"').encode()


U = "6f9619ff8b86d011b42d00c04fc964ff"

ACCEPTED = {
    "bigint": [
        "0",
        "-0",
        "+7",
        " 42",
        "42 ",
        "\t\n\v\f\r 42 \t",
        "007",
        str(2**63 - 1),
        str(-(2**63)),
        "0" * 500 + "1",
    ],
    "smallint": ["-32768", "32767"],
    "uuid": [
        str(uuid.UUID(U)),
        U,
        U.upper(),
        "{" + str(uuid.UUID(U)) + "}",
        "{" + U + "}",
        "-".join(U[at : at + 4] for at in range(0, 32, 4)),
        U[:4] + "-" + U[4:],
    ],
    "bytea": [r"\x", r"\x00ff", r"\xDEADbeef"],
    "date": ["2024-02-29", "0001-01-01", "9999-12-31", "2000-01-01"],
    "text": [
        "",
        " ",
        "a",
        " a ",
        "é",
        "日本",
        'say "hi"',
        "a,b",
        "a\nb",
        "\\",
        "\\N",
        "\N{GRINNING FACE}",
        "x" * 10_000,
    ],
    "character varying(5)": ["abcde", "ab   ", "abcde   ", "é   é  ", "     ", "      ", "日本語日本   "],
}

REFUSED = {
    "bigint": ["", " ", "+", "--1", "1 2", "1.0", "1e3", "0x2a", "0o7", "0b1", "1_000", "٤", "9" * 5000, str(2**63)],
    "uuid": [
        "",
        U[:-1],
        U + "0",
        "{" + U,
        U + "}",
        " " + U,
        U[:1] + "-" + U[1:],
        U[:2] + "-" + U[2:],
        U + "-",
        "g" * 32,
    ],
    "bytea": ["", "abc", r"\x0", r"\x0g", r"\X00", r"\x 00", r"\x00 ff"],
    "date": [
        "",
        "2024-2-1",
        "20240201",
        "2024-02-30",
        "01/02/2024",
        "0000-01-01",
        "infinity",
        "2024-02-01 BC",
        " 2024-02-01",
    ],
    "character varying(5)": ["abcdef", "abcde x", "      x"],
}


@pytest.mark.parametrize(("type_", "text"), [(type_, text) for type_, texts in ACCEPTED.items() for text in texts])
def test_accepted_as_the_server_stores_it(shop: Shop, type_: str, text: str) -> None:
    with shop.direct["s0"].cursor() as cursor:
        cursor.execute(f"CREATE TEMP TABLE stored (k {type_})")
        try:
            cursor.copy_expert("COPY stored FROM STDIN WITH (FORMAT csv)", io.BytesIO(quoted(text) + b"\n"))
            cursor.execute("SELECT k FROM stored")
            (stored,) = cursor.fetchone()
        finally:
            cursor.execute("DROP TABLE stored")
    value = bytes(stored) if isinstance(stored, memoryview) else stored
    assert Places(CSV, table(type_), LOWS)[quoted(text)] == place_of(value, type_)


@pytest.mark.parametrize(("type_", "text"), [(type_, text) for type_, texts in REFUSED.items() for text in texts])
def test_refused(type_: str, text: str) -> None:
    with pytest.raises(KeyFault, match="k0"):
        Places(CSV, table(type_), LOWS)[quoted(text)]


@pytest.mark.parametrize("raw", [b"", b"\xff", b"a\xed\xa0\x80"])
def test_null_and_broken_text_are_refused(raw: bytes) -> None:
    with pytest.raises(KeyFault):
        Places(CSV, table("text"), LOWS)[raw]


def test_composite_keys_have_the_place_of_their_tuple() -> None:
    rng = random.Random(7)
    places = CompositePlaces(CSV, table("integer", "text", "date"), LOWS)
    for _ in range(500):
        value = (rng.randrange(-50, 50), rng.choice(["", "a", "b\n", "é"]) * rng.randrange(3), _day(rng))
        raws = (str(value[0]).encode(), quoted(value[1]), str(value[2]).encode())
        assert places[raws] == place_of(value, "integer", "text", "date")
    with pytest.raises(KeyFault, match="k1 is NULL"):
        places[(b"1", b"", b"2024-01-01")]


def _day(rng: random.Random) -> datetime.date:
    return datetime.date(1999, 1, 1) + datetime.timedelta(days=rng.randrange(20_000))


def test_python_values_are_not_guessed() -> None:
    place = KeyHash(table("bigint"), LOWS).place
    assert place([42]) == place_of(42, "bigint")
    for value in (True, "42", 42.0, None, 2**63):
        with pytest.raises(KeyFault):
            place([value])
    assert KeyHash(table("character varying(2)"), LOWS).place(["ab  "]) == place_of("ab", "text")


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "CACHE_ENTRIES", 100)
    places = Places(CSV, table("text"), LOWS)
    for number in range(1000):
        assert places[str(number).encode()] == place_of(str(number), "text")
    assert len(places) <= 100 < CACHE_ENTRIES
    places[b"x" * 1000]
    assert b"x" * 1000 not in places
