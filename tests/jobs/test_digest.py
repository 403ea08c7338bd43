"""Digests of tables: whatever differs between two tables of the same shape must be seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shardpool.bulk.digest import digest_in, row_hash
from shardpool.ddl.introspect import read_columns
from tests.support.backends import databases, plain_connection

DDL = """
CREATE TYPE mood AS ENUM ('fine', 'so so');
CREATE TABLE plain (id bigint PRIMARY KEY, at timestamptz, note text, amount numeric(12,2), done boolean);
CREATE TABLE mixed (
    id bigint PRIMARY KEY, free numeric, weight double precision, feels mood, extra jsonb, code char(4), tags text[],
    note text COLLATE "C", twice bigint GENERATED ALWAYS AS (id * 2) STORED
);
CREATE TABLE folded (
    id bigint PRIMARY KEY, whole bigint, amount numeric(9,2), at timestamptz, at_of_the_same_hash timestamptz,
    none numeric, small real, large double precision, free numeric, long interval, extra jsonb, word text COLLATE "C",
    network inet, zoned timetz
);
INSERT INTO folded VALUES (1, -1, 5, '2000-01-01 00:00:00.000001+00', '2000-01-01 01:11:34.967296+00', 'NaN',
    0, 0, 1.0, '1 mon', '{"a": 1.0}', 'a', '10.0.0.1/8', '12:00+02');
CREATE TABLE odd (extra json, free numeric);
INSERT INTO plain SELECT n, '2024-01-01'::timestamptz + n * interval '1 day', 'n' || n, n, n % 2 = 0
    FROM generate_series(1, 20) n;
INSERT INTO mixed SELECT n, n, n, 'fine', '{"a": 1}', 'ab', '{x}', 'n' || n FROM generate_series(1, 20) n;
INSERT INTO odd VALUES ('{}', 1);
"""


@pytest.fixture(scope="module")
def cursor(server_urls: list[str]) -> Iterator[Any]:
    with databases(server_urls[:1]) as [url]:
        connection = plain_connection(url)
        with connection.cursor() as cursor:
            cursor.execute(DDL)
            yield cursor
        connection.close()


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("plain", "UPDATE plain SET note = 'n' || (CASE id WHEN 3 THEN 4 ELSE 3 END) WHERE id IN (3, 4)"),
        ("plain", "UPDATE plain SET at = at + interval '1 microsecond' WHERE id = 20"),
        ("plain", "UPDATE plain SET amount = NULL WHERE id = 20"),
        ("plain", "UPDATE plain SET note = note || ' ' WHERE id = 20"),
        ("plain", "DELETE FROM plain WHERE id = 20; INSERT INTO plain SELECT 20, at, note FROM plain WHERE id = 19"),
        ("mixed", "UPDATE mixed SET free = 20.0 WHERE id = 20"),
        ("mixed", "UPDATE mixed SET weight = CASE id WHEN 3 THEN 4 ELSE 3 END WHERE id IN (3, 4)"),
        ("mixed", "UPDATE mixed SET feels = 'so so' WHERE id = 20"),
        ("mixed", "UPDATE mixed SET extra = '{\"a\": 1.0}' WHERE id = 20"),
        ("mixed", "UPDATE mixed SET tags = '{NULL}' WHERE id = 20"),
        ("mixed", "UPDATE mixed SET note = upper(note) WHERE id = 20"),
        ("odd", "UPDATE odd SET extra = '{ }'"),
        # What PostgreSQL's own hashes do not tell apart.
        ("folded", "UPDATE folded SET whole = 4294967295"),
        ("folded", "UPDATE folded SET id = 4294967296"),
        ("folded", "UPDATE folded SET amount = -amount"),
        ("folded", "UPDATE folded SET at = at_of_the_same_hash"),
        ("folded", "UPDATE folded SET none = 'Infinity'"),
        ("folded", "UPDATE folded SET small = '-0', large = '-0'"),
        ("folded", "UPDATE folded SET free = 1.00"),
        ("folded", "UPDATE folded SET long = '30 days'"),
        ("folded", "UPDATE folded SET extra = '{\"a\": 1.00}'"),
        ("folded", "UPDATE folded SET word = 'A'"),
        ("folded", "UPDATE folded SET network = '10.0.0.0/8'"),
        ("folded", "UPDATE folded SET zoned = '11:00+01'"),
    ],
)
def test_a_difference_is_seen(cursor: Any, table: str, change: str) -> None:
    definition = read_columns(cursor, "public")[table].columns
    before = digest_in(cursor, table, definition)
    cursor.execute("BEGIN")
    try:
        cursor.execute(change)
        assert digest_in(cursor, table, definition) != before
    finally:
        cursor.execute("ROLLBACK")
    assert digest_in(cursor, table, definition) == before


def test_order_does_not_matter_and_the_other_side_may_have_wider_types(cursor: Any) -> None:
    definition = read_columns(cursor, "public")["plain"].columns
    cursor.execute("CREATE TEMPORARY TABLE other AS SELECT id::text, at, note, amount::numeric, done FROM plain")
    cursor.execute("CREATE TEMPORARY TABLE another AS SELECT * FROM other ORDER BY random()")
    assert digest_in(cursor, "pg_temp.another", definition) == digest_in(cursor, "plain", definition)


def test_without_the_last_mixing_swapped_values_would_not_be_seen(cursor: Any) -> None:
    """The planted fault: sums of the plain hashes of records."""
    definition = read_columns(cursor, "public")["plain"].columns
    weak = row_hash(definition).removeprefix("hash_record_extended(ROW(int8send(").removesuffix(")), 0)")
    swap = "UPDATE plain SET note = 'n' || (CASE id WHEN 3 THEN 4 ELSE 3 END) WHERE id IN (3, 4)"
    sums = []
    cursor.execute("BEGIN")
    for statement in ("SELECT 1", swap):
        cursor.execute(statement)
        cursor.execute(f"SELECT mod(mod(sum({weak}), 2^64::numeric) + 2^64::numeric, 2^64::numeric) FROM plain")
        sums.append(cursor.fetchone())
    cursor.execute("ROLLBACK")
    assert sums[0] == sums[1]
