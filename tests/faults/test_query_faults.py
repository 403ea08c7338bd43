"""Queries whose merge node has no room, whose time is up, or whose answer is large: nothing of them is left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy.exc

from shardpool import Config, Reference, Router, Sharded
from shardpool.executor.explain import Explanation
from shardpool.local import LocalCluster
from tests.support.backends import plain_connection
from tests.support.full_disk import LIMIT, restart
from tests.support.waiting import eventually

DDL = """
CREATE TABLE items (item_id bigint PRIMARY KEY, body text, other bigint);
CREATE TABLE colours (id bigint PRIMARY KEY, name text);
"""
#: Together more than `LIMIT`.
ROWS, WIDTH = 20_000, 1000

#: A statement of each rung that makes temporary tables.
STATEMENTS = {
    "pushdown": "SELECT length(string_agg(body, '' ORDER BY other)) FROM items",
    "stages": "SELECT count(*) FROM items WHERE length(body) < (SELECT length(string_agg(body, '')) FROM items)",
    "gather": "WITH RECURSIVE r AS (SELECT other, body FROM items UNION SELECT -1, body FROM r WHERE other > 0) "
    "SELECT count(*) FROM r",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(shards=3, partitions=6, keyspace="shop") as found:
        with found.router() as router:
            router.create_schema(DDL, {"items": Sharded("item_id"), "colours": Reference()})
            router.copy_into("items", ((key, f"{key:0{WIDTH}}", ROWS - 1 - key) for key in range(ROWS)))
        yield found


@pytest.fixture
def router(cluster: LocalCluster) -> Iterator[Router]:
    with cluster.router() as found:
        yield found


def assert_nothing_left(cluster: LocalCluster, router: Router) -> None:
    """No connection is in use, no statement runs, no temporary table is there."""
    assert all(pool.in_use == 0 for pool in router.stats().pools.values())
    for name in cluster.names:
        connection = plain_connection(cluster.url(name))
        with connection.cursor() as cursor:

            def left(cursor: object = cursor) -> int:
                cursor.execute(  # type: ignore[attr-defined]
                    "SELECT (SELECT count(*) FROM pg_class WHERE relpersistence = 't')"
                    " + (SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid())"
                )
                return int(cursor.fetchone()[0])  # type: ignore[attr-defined]

            eventually(lambda: left() == 0, f"nothing is left on {name}")
        connection.close()
    assert router.query("SELECT count(*) FROM items").scalar_one() == ROWS


def rung(router: Router, sql: str) -> str:
    found = router.explain(sql)
    assert isinstance(found, Explanation)
    return found.rung


def test_a_merge_node_out_of_disk(cluster: LocalCluster) -> None:
    restart(cluster, "s0", LIMIT)
    try:
        with cluster.router() as plain, Router(_merging_on(plain, "s0")) as router:
            for kind, sql in STATEMENTS.items():
                assert rung(router, sql) == kind
                with pytest.raises(sqlalchemy.exc.DBAPIError, match=r"could not (extend|write)"):
                    router.query(sql)
                assert_nothing_left(cluster, router)
    finally:
        restart(cluster, "s0", None)
    with cluster.router() as router:
        assert all(router.query(sql).all() for sql in STATEMENTS.values())
        assert_nothing_left(cluster, router)


@pytest.mark.parametrize("kind", STATEMENTS)
def test_a_deadline(cluster: LocalCluster, router: Router, kind: str) -> None:
    """One partition's rows do not come: when the time is up, the other shards' statements end too."""
    partition = router.shard_map.by_shard()["s2"][0]
    blocker = plain_connection(cluster.url("s2"))
    config = replace(router.config, pool=replace(router.config.pool, statement_timeout=1.5))
    try:
        with Router(config) as hasty:
            assert rung(hasty, STATEMENTS[kind]) == kind
            with blocker.cursor() as cursor:
                cursor.execute(f"BEGIN; LOCK TABLE {partition.schema}.items IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(sqlalchemy.exc.OperationalError, match="statement timeout"):
                    hasty.query(STATEMENTS[kind])
                cursor.execute("ROLLBACK")
            blocker.close()
            assert_nothing_left(cluster, hasty)
    finally:
        blocker.close()


def test_the_memory_of_a_stream(router: Router) -> None:
    """Half a million rows, some 100 MB as Python values, pass through; a few thousand are held at a time."""
    sql = "SELECT item_id, left(body, 100) || g AS word FROM items, generate_series(1, 20) g"
    with router.stream(f"{sql} LIMIT 10000") as rows:
        assert len(rows.all()) == 10_000
    before, most, count = resident(), 0, 0
    with router.stream(sql) as rows:
        for _ in rows:
            count += 1
            if count % 20_000 == 0:
                most = max(most, resident())
    assert count == ROWS * 20
    assert most - before < 50_000_000


def resident() -> int:
    """Bytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


def _merging_on(router: Router, shard: str) -> Config:
    return replace(router.config, query=replace(router.config.query, merge_node=shard))
