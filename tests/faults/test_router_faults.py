"""Servers that die, hang or go missing under a router; secrets that must not show."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
import sqlalchemy.exc
from sqlalchemy import text

from shardpool import Router, Sharded, parse_config
from shardpool.catalog import ShardIdentity
from shardpool.config import Secret
from shardpool.ddl.parallel import on_all
from shardpool.ddl.session import ShardSession
from shardpool.engines import interrupt
from shardpool.engines.pool import owners
from shardpool.errors import (
    CatalogUnavailable,
    GatherTooLarge,
    InvalidShardMap,
    OutcomeUnknown,
    PoolTimeout,
    ScatterFailed,
    ShardpoolError,
    ShardUnavailable,
)
from shardpool.executor import scatter
from shardpool.local import LocalCluster
from shardpool.moves.parallel import Work, together
from tests.support.backends import plain_connection
from tests.support.waiting import eventually

DDL = "CREATE TABLE items (item_id bigint PRIMARY KEY, body text)"


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(shards=3, partitions=6, keyspace="shop") as found:
        yield found


@pytest.fixture
def router(cluster: LocalCluster) -> Iterator[Router]:
    with cluster.router() as found:
        found.create_schema(DDL, {"items": Sharded("item_id")})
        found.copy_into("items", ((key, f"body {key}") for key in range(600)))
        yield found


def keys_on(router: Router, shard: str) -> list[int]:
    return [key for key in range(600) if router.shard_of(key).name == shard]


def test_one_shard_down_fails_only_what_needs_it(cluster: LocalCluster, router: Router) -> None:
    assert router.query("SELECT count(*) FROM items").scalar_one() == 600
    cluster.kill("s1")
    read = "SELECT body FROM items WHERE item_id = :k"
    for shard in ("s0", "s2"):
        key = keys_on(router, shard)[0]
        assert router.execute(key, read, {"k": key}).scalar_one() == f"body {key}"
    lost = keys_on(router, "s1")[0]
    with pytest.raises(ShardUnavailable, match="s1"):
        router.execute(lost, read, {"k": lost})
    with pytest.raises((ScatterFailed, ShardUnavailable), match="s1"):
        router.query("SELECT count(*) FROM items")
    cluster.start("s1")
    assert router.query("SELECT count(*) FROM items").scalar_one() == 600
    assert router.execute(lost, read, {"k": lost}).scalar_one() == f"body {lost}"
    assert all(pool.in_use == 0 for pool in router.stats().pools.values())


def test_routing_goes_on_while_the_catalog_is_down(cluster: LocalCluster) -> None:
    cluster.add_shard("catalog")
    shards = {name: {"url": cluster.url(name)} for name in ("s0", "s1", "s2")}
    config = parse_config({"keyspace": "apart", "partitions": 6, "catalog": cluster.url("catalog"), "shards": shards})
    Router.initialise(config)
    with Router(config) as router:
        router.create_schema(DDL, {"items": Sharded("item_id")})
        router.copy_into("items", ((key, "x") for key in range(60)))
        cluster.kill("catalog")
        assert router.query("SELECT count(*) FROM items").scalar_one() == 60
        router.execute(7, "UPDATE items SET body = 'y' WHERE item_id = 7")
        with pytest.raises(sqlalchemy.exc.ProgrammingError):
            router.execute(7, "SELECT absent_column FROM items")
        with pytest.raises(CatalogUnavailable):
            router.refresh()
        with pytest.raises(CatalogUnavailable):
            Router(config)
        cluster.start("catalog")
        router.refresh()
        other = Router(config)
        other.catalog.add_shard("s9", "postgresql+psycopg2://x@127.0.0.1:1/x", ShardIdentity("1", "x"))
        other.close()
        eventually(lambda: "s9" in router.shard_map.shards)


def test_a_notice_reaches_other_routers(cluster: LocalCluster, router: Router) -> None:
    with cluster.router() as other:
        other.create_schema("ALTER TABLE items ADD COLUMN extra int")
        eventually(lambda: router.topology.tables["items"].column("extra") is not None, seconds=4)
    assert router.query("SELECT count(extra) FROM items").scalar_one() == 0


def test_a_bad_map_is_not_taken(cluster: LocalCluster, router: Router) -> None:
    good = router.shard_map
    with router.catalog.begin() as connection:
        connection.execute(text("UPDATE shardpool_catalog.partition SET high = high - 1 WHERE id = 2"))
    with pytest.raises(InvalidShardMap, match="gap"):
        router.refresh()
    assert router.shard_map is good
    with router.catalog.begin() as connection:
        connection.execute(text("UPDATE shardpool_catalog.partition SET high = high + 1 WHERE id = 2"))
        connection.execute(text("UPDATE shardpool_catalog.keyspace SET epoch = 0"))
    with pytest.raises(InvalidShardMap, match="went back"):
        router.refresh()
    assert router.query("SELECT count(*) FROM items").scalar_one() == 600


def test_a_broken_write_is_of_unknown_outcome(cluster: LocalCluster, router: Router) -> None:
    key = keys_on(router, "s1")[0]
    caught: list[BaseException] = []

    def write() -> None:
        try:
            router.execute(
                key, "UPDATE items SET body = 'w' WHERE item_id = :k AND pg_sleep(60) IS NOT NULL", {"k": key}
            )
        except ShardpoolError as error:
            caught.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    direct = plain_connection(cluster.url("s1"))
    with direct.cursor() as cursor:

        def sleeping() -> bool:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
            return bool(cursor.fetchone() == (1,))

        eventually(sleeping)
    direct.close()
    cluster.kill("s1")
    thread.join(20)
    assert len(caught) == 1
    assert isinstance(caught[0], OutcomeUnknown)
    assert not caught[0].retryable


def test_a_failing_shard_cancels_the_others(cluster: LocalCluster, router: Router) -> None:
    """One shard divides by zero at once while the others would sleep for a minute."""
    key = keys_on(router, "s1")[0]
    sleep = "CASE WHEN item_id = :k THEN (1 / (item_id - item_id))::text ELSE body END"
    with router.shard("s0").engine.connect() as connection:
        partition = router.shard_map.by_shard()["s0"][0]
        connection.execute(text(f"LOCK TABLE {partition.schema}.items IN ACCESS EXCLUSIVE MODE"))
        start = time.monotonic()
        with pytest.raises(sqlalchemy.exc.DataError, match="division by zero"):
            router.query(f"SELECT {sleep} FROM items", {"k": key})
        assert time.monotonic() - start < 10
    assert all(pool.in_use == 0 for pool in router.stats().pools.values())
    assert router.query("SELECT count(*) FROM items").scalar_one() == 600


@pytest.mark.parametrize("sql", ["SELECT * FROM items", "SELECT count(DISTINCT body) FROM items"])
def test_a_shard_that_dies_in_mid_query(cluster: LocalCluster, router: Router, sql: str) -> None:
    caught: list[BaseException] = []
    partition = router.shard_map.by_shard()["s2"][0]
    blocker = plain_connection(cluster.url("s2"))
    with blocker.cursor() as cursor:
        cursor.execute(f"BEGIN; LOCK TABLE {partition.schema}.items IN ACCESS EXCLUSIVE MODE")

        def query() -> None:
            try:
                router.query(sql)
            except ShardpoolError as error:
                caught.append(error)

        thread = threading.Thread(target=query)
        thread.start()

        def waiting() -> bool:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            return bool(cursor.fetchone()[0] >= 1)  # type: ignore[index]

        eventually(waiting)
    cluster.kill("s2")
    thread.join(20)
    assert len(caught) == 1
    assert isinstance(caught[0], ScatterFailed)
    assert list(caught[0].errors) == ["s2"]
    cluster.start("s2")
    blocker.close()
    assert router.query("SELECT count(DISTINCT body) FROM items").scalar_one() == 600


def test_statements_for_a_hanging_shard_do_not_hold_up_the_others(cluster: LocalCluster) -> None:
    with cluster.router() as first:
        first.create_schema(DDL, {"items": Sharded("item_id")})
        config = replace(first.config, pool=replace(first.config.pool, max_size=2, timeout=1.0))
    with Router(config) as router:
        for key in range(60):
            router.execute(key, "INSERT INTO items VALUES (:k, 'x')", {"k": key})
        keys = {name: keys_on(router, name) for name in ("s0", "s1", "s2")}
        hung = [pid for pid in backends(cluster, "s1") if os.kill(pid, signal.SIGSTOP) is None]
        try:
            failures: list[BaseException] = []

            def hang() -> None:
                try:
                    router.execute(keys["s1"][0], "SELECT 1 FROM items")
                except PoolTimeout as error:
                    failures.append(error)

            stuck = [threading.Thread(target=hang, daemon=True) for _ in range(8)]
            for thread in stuck:
                thread.start()
            start = time.monotonic()
            for _ in range(200):
                router.execute(keys["s0"][0], "SELECT 1 FROM items")
                router.execute(keys["s2"][0], "SELECT 1 FROM items")
            elapsed = time.monotonic() - start
            eventually(lambda: len(failures) >= 6)
        finally:
            for pid in hung:
                os.kill(pid, signal.SIGCONT)
        for thread in stuck:
            thread.join(30)
        assert elapsed < 5


def scatters(router: Router, keys: dict[str, list[int]]) -> None:
    rows = ", ".join(f"({key}, 'again')" for name in ("s0", "s1") for key in keys[name][:1])
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        router.query(f"INSERT INTO items VALUES {rows}")


def moves(router: Router, keys: dict[str, list[int]]) -> None:
    with router.engines.borrow("s1") as there, router.engines.borrow("s0") as here:
        works = [Work(there, lambda: there.cursor().execute("SELECT 1")), Work(here, lambda: fail(here))]
        with pytest.raises(psycopg2.Error):
            together(works)


def changes_the_schema(router: Router, keys: dict[str, list[int]]) -> None:
    with ExitStack() as stack:
        sessions = [
            ShardSession("shop", name, [], stack.enter_context(router.engines.borrow(name))) for name in ("s0", "s1")
        ]
        executor = stack.enter_context(ThreadPoolExecutor(2))
        with pytest.raises(psycopg2.Error):
            on_all(executor, sessions, lambda it: fail(it.connection if it.shard == "s0" else None, it.connection))


def fail(failing: Any, other: Any = None) -> None:
    """Fail on one connection; say something on the other, whose server hangs."""
    if failing is None:
        other.cursor().execute("SELECT 1")
    else:
        failing.cursor().execute("SELECT 1 / 0")


@pytest.mark.parametrize("work", [scatters, moves, changes_the_schema])
def test_a_cancellation_on_a_hanging_shard_does_not_hold_up_the_others(
    cluster: LocalCluster, router: Router, monkeypatch: pytest.MonkeyPatch, work: Callable[..., None]
) -> None:
    """The driver's own cancellation would stop all threads of this process until the server answers."""
    keys = {name: keys_on(router, name) for name in ("s0", "s1", "s2")}
    begun, since = threading.Event(), list[float]()

    def cancel(connection: Any, own: Callable[[Any], None] = interrupt.cancel) -> None:
        if owners[connection].shard == "s1":
            since.append(time.monotonic())  # not later, in a thread that would be stopped
            begun.set()
        own(connection)

    with ThreadPoolExecutor(1) as threads:
        router.query("SELECT count(DISTINCT body) FROM items")  # connections are open
        for module in (interrupt, scatter):
            monkeypatch.setattr(module, "cancel", cancel)
        hung = backends(cluster, "s1")
        # Whatever happens here, the shard goes on in the end.
        rescue = subprocess.Popen(["sh", "-c", f"sleep 15; kill -CONT {' '.join(map(str, hung))}"])
        for pid in hung:
            os.kill(pid, signal.SIGSTOP)
        try:
            working = threads.submit(work, router, keys)
            assert begun.wait(20)
            for _ in range(200):
                router.execute(keys["s2"][0], "SELECT 1 FROM items")
            elapsed = time.monotonic() - since[0]
        finally:
            rescue.kill()
            rescue.wait()
            for pid in hung:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        assert elapsed < 8
        working.result(60)


def backends(cluster: LocalCluster, shard: str) -> list[int]:
    """The postmaster and all client backends of a shard."""
    connection = plain_connection(cluster.url(shard))
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'shardpool%'")
        found = [pid for (pid,) in cursor.fetchall()]
    connection.close()
    return [cluster.server(shard).pid, *found]


def test_a_gather_above_the_limit(cluster: LocalCluster, router: Router) -> None:
    router.copy_into("items", ((key, "x" * 1000) for key in range(1000, 4000)))
    small = replace(router.config, query=replace(router.config.query, max_gather_bytes=100_000))
    with Router(small) as limited:
        with pytest.raises(GatherTooLarge, match="max_gather_bytes") as caught:
            limited.query("SELECT length(string_agg(body, '')) FROM items")
        assert caught.value.limit == 100_000
        assert limited.query("SELECT count(*) FROM items").scalar_one() == 3600
        assert all(pool.in_use == 0 for pool in limited.stats().pools.values())
    assert router.query("SELECT count(DISTINCT body) FROM items").scalar_one() == 601


def test_no_temporary_table_outlives_its_query(router: Router) -> None:
    router.query("SELECT count(DISTINCT body) FROM items")
    router.query("SELECT count(*), min(body) FROM items")
    for name in router.shard_map.shards:
        with router.shard(name).engine.connect() as connection:
            assert (
                connection.execute(text("SELECT count(*) FROM pg_class WHERE relpersistence = 't'")).scalar_one() == 0
            )


def test_passwords_show_nowhere(
    cluster: LocalCluster, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = "s3cr3t-marker"
    caplog.set_level(logging.DEBUG)
    shards = {
        name: {"url": cluster.url(name).replace("shardpool@", f"shardpool:{marker}@")} for name in ("s0", "s1", "s2")
    }
    config = parse_config({"keyspace": "shop", "partitions": 6, "catalog": shards["s0"]["url"], "shards": shards})
    assert config.shards["s0"].password == Secret(marker)
    Router.initialise(config)
    seen = [repr(config), str(config)]
    with Router(config) as router:
        router.create_schema(DDL, {"items": Sharded("item_id")})
        seen += [
            repr(router.shard_map),
            repr(router.stats()),
            repr(router.shard("s0")),
            repr(router.shard("s0").engine),
        ]
        with router.catalog.begin() as connection:
            seen += [str(row) for row in connection.execute(text("SELECT * FROM shardpool_catalog.shard"))]
        cluster.kill("s1")
        for sql in ("SELECT * FROM items", "SELECT nope FROM items"):
            with pytest.raises((ShardpoolError, sqlalchemy.exc.SQLAlchemyError)) as caught:
                router.query(sql)
            seen += traceback.format_exception(caught.value)
    seen += [caplog.text, *capsys.readouterr()]
    assert marker not in "\n".join(seen)
