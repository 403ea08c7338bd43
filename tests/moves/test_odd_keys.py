"""Rows whose keys change in ways that no statement says, or that are equal and yet differ."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool import Sharded
from shardpool.errors import PreflightFailed
from shardpool.moves import move_partition
from shardpool.moves.record import Mode
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Place, schema
from tests.moves.test_online import written_at
from tests.support.backends import databases

DDL = """
CREATE DOMAIN number AS bigint NOT NULL CHECK (VALUE >= 0);
CREATE TABLE domains (key bigint, id number, v int, PRIMARY KEY (key, id));
CREATE TABLE bent (key bigint, id int, v int, PRIMARY KEY (key, id));
CREATE FUNCTION bend() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.id := new.id + 1000; RETURN new; END';
CREATE TRIGGER bend BEFORE UPDATE ON bent FOR EACH ROW EXECUTE FUNCTION bend();
CREATE TABLE equal (key bigint, id numeric, f float8, v int, PRIMARY KEY (key, id, f));
CREATE TYPE pair AS (a int, b int);
CREATE TABLE pairs (p pair, key bigint, v int, PRIMARY KEY (p, key));
CREATE TABLE deferred (key bigint, id int, v int, PRIMARY KEY (key, id) DEFERRABLE INITIALLY DEFERRED);
"""
TABLES = ("domains", "bent", "equal", "pairs", "deferred")
KEYS = {"equal": "k, i, CASE i WHEN 2 THEN 'NaN' ELSE 0::float8 END", "pairs": "ROW(i, NULL)::pair, k"}
WRITES = """
UPDATE domains SET id = id + 100 WHERE id < 2;
INSERT INTO domains SELECT key, max(id) + 1, 5 FROM domains GROUP BY key;
DELETE FROM domains WHERE id = 3;
UPDATE bent SET v = v + 1;
UPDATE equal SET id = id + 0.00, v = v + 1;
UPDATE equal SET f = -f;
UPDATE pairs SET v = v + 1;
UPDATE pairs SET p = ROW((p).a + 100, NULL) WHERE (p).a < 2;
BEGIN; UPDATE deferred SET id = id + 1; UPDATE deferred SET v = v + 1; COMMIT;
"""
POINTS = ("capture:after", "copy:after", "finish:after", "verify:after", "catch_up:after")


@pytest.fixture
def own(server_urls: list[str]) -> Iterator[Place]:
    with databases(server_urls[:2]) as urls:
        place = Place(shop_config(urls, partitions=1))
        try:
            place.router.create_schema(DDL, {table: Sharded("key") for table in TABLES})
            with place.session(place.owner(0), 0) as cursor:
                for table in TABLES:
                    keys = KEYS.get(table, "k, i")
                    numbers = "generate_series(1, 5) k, generate_series(0, 4) i"
                    cursor.execute(f"INSERT INTO {table} SELECT {keys}, 0 FROM {numbers}")
            yield place
        finally:
            place.close()


@pytest.mark.parametrize("mode", ["trigger", "logical"])
def test_whatever_becomes_of_keys(own: Place, monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    source, target, expected = own.owner(0), own.other(0), []
    if mode == "logical":
        # PostgreSQL would refuse to update its rows while they are published.
        with pytest.raises(PreflightFailed, match=r"primary key of table deferred is deferrable .*FULL"):
            move_partition(own.router, 0, target, mode=mode)
        own.router.create_schema("ALTER TABLE deferred REPLICA IDENTITY FULL")

    def rows(shard: str) -> list[object]:
        return [own.sql(shard, f"SELECT t::text FROM {schema(0)}.{table} t ORDER BY 1") for table in TABLES]

    def write() -> None:
        with own.session(source, 0) as cursor:
            for statement in WRITES.strip().split(";\n"):
                cursor.execute(statement)
        expected.append(rows(source))

    written_at(monkeypatch, {f"move:{point}": write for point in POINTS})
    move_partition(own.router, 0, target, mode=mode)
    assert len(expected) == len(POINTS) and rows(target) == expected[-1]
    own.assert_clean()
