"""doctor, on healthy servers and on some that are not."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy import text

from shardpool import Router, Sharded
from shardpool.jobs import digest
from shardpool.local import LocalCluster
from tests.cli.cli_tools import run, write


def findings(config: Path) -> dict[str, list[tuple[str, str]]]:
    """Check -> (subject, state) of what is not ok."""
    found: dict[str, list[tuple[str, str]]] = {}
    for it in run("doctor", "--json", config=config).json["findings"]:
        if it["state"] != "ok":
            found.setdefault(it["check"], []).append((it["subject"], it["state"]))
    return found


def execute(cluster: LocalCluster, shard: str, statement: str) -> None:
    connection = psycopg2.connect(cluster.url(shard).replace("+psycopg2", ""))
    connection.autocommit = True
    connection.cursor().execute(statement)
    connection.close()


def test_all_is_well(shop: Path) -> None:
    found = run("doctor", "--json", config=shop)
    assert found.code == 0
    assert found.json["healthy"]
    assert found.json["wrong"] == 0
    checks = {it["check"] for it in found.json["findings"]}
    assert checks >= {
        "reachable",
        "version",
        "encoding",
        "collation",
        "clock",
        "identity",
        "shard map",
        "drift",
        "moves",
    }
    assert "0 wrong" in run("doctor", config=shop).out
    assert run("doctor", "--all", config=shop).out.count("reachable") == 2


def test_unique_columns(shop: Path, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with Router.from_file(shop, listen=False) as router:
        router.create_schema(
            "CREATE TABLE members (id bigint PRIMARY KEY, email text); "
            "CREATE TABLE emails (email text PRIMARY KEY, id bigint NOT NULL)",
            {"members": Sharded("id", {"email": "emails"}), "emails": Sharded("email")},
        )
        router.query("INSERT INTO members VALUES (1, 'a'), (2, 'b'), (3, NULL)")
        assert findings(shop) == {}
        read, keys = digest._digest_of_columns, itertools.count(10)

        def write_after(*arguments: Any) -> Any:
            found = read(*arguments)
            router.query("INSERT INTO members VALUES (:key, :email)", {"key": (key := next(keys)), "email": f"e{key}"})
            return found

        with monkeypatch.context() as writing:
            writing.setattr(digest, "_digest_of_columns", write_after)
            assert findings(shop) == {}
        assert next(keys) == 14, "compared again, at one moment of all shards"
        router.query("DELETE FROM members WHERE id >= 10")
        place = router.partition_of(1).schema
        execute(cluster, router.shard_of(1).name, f"update {place}.members set email = 'c' where id = 1")
        assert findings(shop) == {"unique columns": [("keyspace", "wrong")]}
        assert "emails has 2 rows for 2 values, or others" in run("doctor", config=shop).out.replace("\n", " ")
        router.create_schema("DROP TABLE members, emails")


def test_drift(shop: Path, cluster: LocalCluster) -> None:
    execute(cluster, "s1", "alter table shop_p0005.orders add column surplus int")
    assert findings(shop) == {"drift": [("s1", "wrong")]}
    found = run("doctor", config=shop)
    assert found.code == 1
    assert "surplus" in found.out
    execute(cluster, "s1", "alter table shop_p0005.orders drop column surplus")
    assert findings(shop) == {}


def test_reference_tables_are_compared(shop: Path, cluster: LocalCluster) -> None:
    execute(cluster, "s1", "update shop.country set name = 'elsewhere' where code = 'de'")
    assert findings(shop) == {"reference tables": [("keyspace", "wrong")]}
    execute(cluster, "s1", "update shop.country set name = 'Germany' where code = 'de'")
    assert findings(shop) == {}


def test_reference_tables_that_are_being_written(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, one_by_one = digest.digest_in, threading.Lock()
    with Router.from_file(shop, listen=False) as router:

        def write_after(cursor: Any, relation: str, columns: Any) -> Any:
            with one_by_one:
                found = read(cursor, relation, columns)
                if relation == '"shop"."country"':
                    router.query("UPDATE country SET name = name || '.' WHERE code = 'de'")
                return found

        monkeypatch.setattr(digest, "digest_in", write_after)
        assert findings(shop) == {}
        written = router.query("SELECT name FROM country WHERE code = 'de'").scalar_one()
        assert written == "Germany....", "read twice on each shard"
        router.query("UPDATE country SET name = 'Germany' WHERE code = 'de'")


def test_reference_tables_are_made_equal(shop: Path, cluster: LocalCluster) -> None:
    with Router.from_file(shop, listen=False) as router:
        router.query("INSERT INTO country VALUES ('zz', 'gone')")
        before = router.query("SELECT * FROM country ORDER BY 1").all()
        execute(cluster, "s1", "update shop.country set name = E'else\\twhere' where code = 'de'")
        execute(cluster, "s1", "insert into shop.country values ('xx', 'nowhere')")
        execute(cluster, "s1", "delete from shop.country where code = 'zz'")
        assert run("doctor", "--reference", "country=nowhere", config=shop).code == 1
        assert run("doctor", "--reference", "orders=s0", config=shop).code == 1
        assert "reference tables" in findings(shop)
        done = run("doctor", "--reference", "country=s0", "--json", config=shop)
        assert "reference table country on shard s1 made equal to that of s0" in done.json["repaired"]
        assert findings(shop) == {}
        assert router.query("SELECT * FROM country ORDER BY 1").all() == before
        router.query("DELETE FROM country WHERE code = 'zz'")


def test_the_same_database_twice(shop: Path, cluster: LocalCluster, tmp_path: Path) -> None:
    wrong = cluster.url("s0").replace("127.0.0.1", "localhost")
    text = shop.read_text(encoding="utf-8").replace(f'[shards.s1]\nurl = "{cluster.url("s1")}"', "[shards.s1]")
    config = write(tmp_path / "cluster.toml", text.replace("[shards.s1]", f'[shards.s1]\nurl = "{wrong}"'))
    if '[shards."s1"]' in text:
        config = write(config, text.replace(f'url = "{cluster.url("s1")}"', f'url = "{wrong}"'))
    assert ("s1", "wrong") in findings(config)["identity"]


def test_what_dead_processes_left(shop: Path, cluster: LocalCluster) -> None:
    with Router.from_file(shop, listen=False) as router, router.catalog.begin() as connection:
        insert = (
            "INSERT INTO shardpool_catalog.ddl (keyspace, statement, scope, after_copy, state) "
            "VALUES ('shop', 'create index unfinished on orders (total)', 'partition', true, 'running')"
        )
        connection.execute(text(insert))
    assert ("keyspace", "wrong") in findings(shop)["schema changes"]
    repaired = run("doctor", "--repair", "--json", config=shop)
    assert repaired.code == 0
    assert "schema changes" not in findings(shop)


def test_another_time_zone(shop: Path, tmp_path: Path) -> None:
    config = write(tmp_path / "cluster.toml", 'timezone = "Asia/Tokyo"\n' + shop.read_text(encoding="utf-8"))
    assert findings(config) == {"time zone": [("keyspace", "wrong")]}


def test_an_empty_catalog(cluster: LocalCluster, shop: Path, tmp_path: Path) -> None:
    text = shop.read_text(encoding="utf-8").replace('"shop"', '"other"')
    config = write(tmp_path / "cluster.toml", text)
    found = run("doctor", config=config)
    assert found.code == 1
    assert "shardpool init" in found.out
    assert run("status", config=config).code == 2
