"""Pools: limits, waiting, cleanliness, dead connections, closing. All on real servers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import sqlalchemy.exc
from sqlalchemy import text

from shardpool.config import Config, PoolConfig, parse_config
from shardpool.engines import Engines, PoolStats
from shardpool.errors import NoSuchShard, PoolClosed, PoolTimeout, ShardUnavailable
from shardpool.local import LocalCluster
from tests.support.backends import plain_connection
from tests.support.waiting import eventually


def configured(url: str, **pool: float) -> Config:
    config = parse_config({"keyspace": "shop", "partitions": 1, "catalog": url, "shards": {"s0": {"url": url}}})
    return replace(config, pool=PoolConfig(**pool))  # type: ignore[arg-type]


@pytest.fixture
def engines(server_urls: list[str]) -> Iterator[Callable[..., Engines]]:
    opened: list[Engines] = []

    def build(**pool: float) -> Engines:
        opened.append(Engines(configured(server_urls[0], **pool)))
        return opened[-1]

    yield build
    for found in opened:
        found.close()


def stats(engines: Engines) -> PoolStats:
    return engines.stats()["s0"]


def test_nothing_is_opened_before_it_is_used(engines: Callable[..., Engines]) -> None:
    found = engines()
    assert found.stats() == {}
    found.engine("s0")
    assert stats(found).size == 0
    with pytest.raises(NoSuchShard, match="s9"):
        found.engine("s9")


def test_connections_are_reused(engines: Callable[..., Engines]) -> None:
    found = engines()
    for _ in range(5):
        with found.borrow("s0") as connection:
            assert not connection.autocommit
    assert (stats(found).opened, stats(found).size, stats(found).idle) == (1, 1, 1)


def test_a_full_pool_waits_and_gives_up_in_time(engines: Callable[..., Engines]) -> None:
    found = engines(max_size=1, timeout=0.3)
    with found.borrow("s0"):
        start = time.monotonic()
        with pytest.raises(PoolTimeout, match="1 of 1 are in use") as caught:
            found.pool("s0").lease()
        assert 0.3 <= time.monotonic() - start < 3
    assert isinstance(caught.value, sqlalchemy.exc.TimeoutError)
    assert (stats(found).timeouts, stats(found).waiting, stats(found).in_use) == (1, 0, 0)


def test_waiting_threads_are_served_in_order(engines: Callable[..., Engines]) -> None:
    found = engines(max_size=1, timeout=20)
    pool = found.pool("s0")
    held = pool.lease()
    served: list[int] = []

    def use(number: int) -> None:
        entry = pool.lease()
        served.append(number)
        pool.give_back(entry)

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=use, args=(number,)))
        threads[-1].start()
        eventually(lambda expected=number + 1: stats(found).waiting == expected)
    pool.give_back(held)
    for thread in threads:
        thread.join(20)
    assert served == [0, 1, 2, 3, 4]
    assert stats(found).opened == 1


def test_a_failed_connection_passes_its_slot_on(engines: Callable[..., Engines]) -> None:
    found = engines(max_size=1, timeout=20)
    pool = found.pool("s0")
    entry = pool.lease()
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(pool.lease()))
    thread.start()
    eventually(lambda: stats(found).waiting == 1)
    pool.discard(entry)
    thread.join(20)
    assert len(got) == 1
    assert (stats(found).opened, stats(found).closed, stats(found).size) == (2, 1, 1)


@pytest.mark.parametrize(
    "dirt",
    [
        "SET search_path TO pg_catalog",
        "SET work_mem = '1MB'",
        "SET default_transaction_read_only = on",
        "CREATE TEMPORARY TABLE left_over (a int)",
        "SELECT pg_advisory_lock(42)",
        "LISTEN something",
        "PREPARE left_over AS SELECT 1",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "CREATE TEMPORARY SEQUENCE numbers",
    ],
)
@pytest.mark.parametrize("commit", [True, False])
def test_a_connection_comes_back_clean(engines: Callable[..., Engines], dirt: str, commit: bool) -> None:
    found = engines(max_size=1)
    state = (
        "SELECT current_setting('search_path'), current_setting('work_mem'), current_setting('timezone'), current_user,"
        " current_setting('default_transaction_read_only'), current_setting('default_transaction_isolation'),"
        " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),"
        " (SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND pg_table_is_visible(oid)),"
        " (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_listening_channels())"
    )

    def look() -> object:
        with found.borrow("s0") as connection, connection.cursor() as cursor:
            cursor.execute(state)
            return cursor.fetchone()

    before = look()
    with found.borrow("s0") as connection, connection.cursor() as cursor:
        cursor.execute(dirt)
        if commit:
            connection.commit()
    assert look() == before
    with found.engine("s0").connect() as sqla:
        sqla.execute(text(dirt))
        if commit:
            sqla.commit()
    assert look() == before
    assert stats(found).opened == 1
    entry = found.pool("s0").lease()
    assert entry.dbapi_connection.autocommit  # type: ignore[union-attr]
    found.pool("s0").give_back(entry)


def test_an_engine_with_another_isolation_level_leaves_none(engines: Callable[..., Engines]) -> None:
    found = engines(max_size=1)
    with found.engine("s0").connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        assert connection.execute(text("SHOW transaction_isolation")).scalar_one() == "serializable"
    with found.engine("s0").connect() as connection:
        assert connection.execute(text("SHOW transaction_isolation")).scalar_one() == "read committed"
    entry = found.pool("s0").lease()
    assert entry.dbapi_connection.autocommit  # type: ignore[union-attr]
    found.pool("s0").give_back(entry)


def test_idle_and_old_connections_are_closed(engines: Callable[..., Engines]) -> None:
    found = engines(min_size=1, max_size=5, idle_timeout=0.2)
    pool = found.pool("s0")
    leased = [pool.lease() for _ in range(4)]
    for entry in leased:
        pool.give_back(entry)
    assert stats(found).idle == 4
    eventually(lambda: stats(found).closed == 3)
    assert (stats(found).idle, stats(found).size) == (1, 1)
    aged = engines(max_age=0.05)
    first = aged.pool("s0").lease()
    pid = first.dbapi_connection.get_backend_pid()  # type: ignore[union-attr]
    aged.pool("s0").give_back(first)
    eventually(lambda: first.info["expires"] < time.monotonic())
    second = aged.pool("s0").lease()
    assert second.dbapi_connection.get_backend_pid() != pid  # type: ignore[union-attr]
    aged.pool("s0").give_back(second)


def test_a_killed_idle_connection_is_replaced_unseen(engines: Callable[..., Engines], server_urls: list[str]) -> None:
    found = engines(max_size=1)
    with found.borrow("s0") as connection:
        pid = connection.get_backend_pid()
    killer = plain_connection(server_urls[0])
    with killer.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
        assert cursor.fetchone() == (True,)
    killer.close()
    with found.borrow("s0") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
    assert (stats(found).opened, stats(found).closed, stats(found).size) == (2, 1, 1)


def test_restart_and_absence_of_the_server() -> None:
    with LocalCluster(shards=1) as cluster:
        found = Engines(configured(cluster.url("s0"), max_size=3))
        with found.borrow("s0"), found.borrow("s0"):
            pass
        cluster.kill("s0")
        with pytest.raises(ShardUnavailable, match="s0") as caught:
            found.pool("s0").lease()
        assert caught.value.retryable
        assert stats(found).in_use == 0
        cluster.start("s0")
        with found.borrow("s0") as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        found.close()
        assert stats(found).size == 0


def test_close_leaves_nothing(engines: Callable[..., Engines], server_urls: list[str]) -> None:
    before = set(threading.enumerate())
    found = engines(max_size=2, timeout=20)
    pool = found.pool("s0")
    held, other = pool.lease(), pool.lease()
    failures: list[BaseException] = []

    def wait_in_vain() -> None:
        try:
            pool.lease()
        except PoolClosed as error:
            failures.append(error)

    thread = threading.Thread(target=wait_in_vain)
    thread.start()
    eventually(lambda: stats(found).waiting == 1)
    found.close()
    thread.join(20)
    assert len(failures) == 1
    for entry in (held, other):
        pool.give_back(entry)
    assert stats(found).size == 0
    with pytest.raises(PoolClosed):
        pool.lease()
    assert {t for t in threading.enumerate() if t.is_alive()} <= before


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_touch_its_parents_connections(engines: Callable[..., Engines]) -> None:
    found = engines(max_size=1)
    with found.borrow("s0") as connection:
        parent = connection.get_backend_pid()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with found.borrow("s0") as connection:
            os.write(write, str(connection.get_backend_pid()).encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert int(os.read(read, 100)) != parent
    os.close(read)
    os.close(write)
    with found.borrow("s0") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        assert cursor.fetchone() == (parent,)


def test_many_threads(engines: Callable[..., Engines]) -> None:
    found = engines(max_size=3, timeout=30)
    pool = found.pool("s0")
    in_use: list[int] = []
    lock = threading.Lock()
    most = 0

    def work() -> None:
        nonlocal most
        for _ in range(50):
            entry = pool.lease()
            with lock:
                in_use.append(id(entry))
                most = max(most, len(in_use))
                assert len(set(in_use)) == len(in_use)
            with entry.dbapi_connection.cursor() as cursor:  # type: ignore[union-attr]
                cursor.execute("SELECT 1")
            with lock:
                in_use.remove(id(entry))
            pool.give_back(entry)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most <= 3
    assert (stats(found).in_use, stats(found).waiting) == (0, 0)
