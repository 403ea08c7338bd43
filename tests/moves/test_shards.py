"""Shards that join, are drained, and leave."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool.config import Endpoint
from shardpool.errors import ConfigError, NoSuchShard, PreflightFailed, ShardUnavailable
from shardpool.local import LocalCluster
from shardpool.moves import (
    add_shard,
    apply_rebalance,
    drain_shard,
    move_partition,
    plan_rebalance,
    remove_shard,
)
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Background, Place
from tests.support.backends import databases
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def urls(server_urls: list[str]) -> Iterator[list[str]]:
    with databases(server_urls) as found:
        yield found


@pytest.fixture(scope="module")
def growing(urls: list[str]) -> Iterator[Place]:
    """Two shards; the third server is not one yet."""
    place = Place(shop_config(urls[:2], partitions=6))
    try:
        place.fill()
        yield place
    finally:
        place.close()


def test_a_shard_joins_takes_its_share_and_leaves(growing: Place, urls: list[str]) -> None:
    before = growing.contents()
    add_shard(growing.router, "s2", urls[2])
    growing.known["s2"] = Endpoint(urls[2])
    countries = "SELECT code, name FROM shop.country ORDER BY 1"
    assert growing.sql("s2", countries) == growing.sql("s0", countries) != []
    assert growing.router.shard_map.by_shard().keys() == {"s0", "s1"}
    plan = plan_rebalance(growing.router, by="count")
    assert len(plan.moves) == 2 and {it.target for it in plan.moves} == {"s2"}
    apply_rebalance(growing.router, plan)
    assert growing.contents() == before
    assert growing.router.query("SELECT count(*) FROM customers NATURAL JOIN orders").scalar_one() == 180

    with pytest.raises(PreflightFailed, match="drain it first"):
        remove_shard(growing.router, "s2")
    drained = drain_shard(growing.router, "s2")
    assert growing.router.shard_map.shards["s2"].state == "draining"
    assert {it.source for it in drained.moves} == {"s2"}
    apply_rebalance(growing.router, drained)
    assert plan_rebalance(growing.router, by="count").moves == ()
    remove_shard(growing.router, "s2")
    assert set(growing.router.shard_map.shards) == {"s0", "s1"}
    assert growing.contents() == before
    growing.assert_clean()
    # It may come again: what it has of reference tables is replaced.
    growing.sql("s2", "DELETE FROM shop.country")
    growing.router.copy_into("country", [("it", "Italy")])
    add_shard(growing.router, "s2", urls[2])
    assert growing.sql("s2", countries) == growing.sql("s0", countries)
    remove_shard(growing.router, "s2")
    growing.known.pop("s2")


def test_reference_writers_wait_until_the_shard_is_known(
    growing: Place, urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = growing.router.catalog
    honest = catalog.add_shard
    writers: list[Background] = []

    def add_while_somebody_writes(*arguments: object) -> None:
        insert = "INSERT INTO shop.country VALUES ('xx', 'late'); DELETE FROM shop.country WHERE code = 'xx'"
        writers.append(Background(lambda: growing.sql("s0", insert)))
        waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'shop.country'::regclass"
        eventually(lambda: bool(growing.sql("s0", waits)), "the writer waits")
        honest(*arguments)

    monkeypatch.setattr(catalog, "add_shard", add_while_somebody_writes)
    add_shard(growing.router, "s2", urls[2])
    writers[0].wait()
    remove_shard(growing.router, "s2")


def test_the_same_database_twice(growing: Place, urls: list[str]) -> None:
    with pytest.raises(PreflightFailed, match="the database is shard s1 already"):
        add_shard(growing.router, "s2", urls[1] + "?connect_timeout=3")
    assert set(growing.router.shard_map.shards) == {"s0", "s1"}


def test_a_name_twice_or_a_bad_one(growing: Place, urls: list[str]) -> None:
    with pytest.raises(PreflightFailed, match="there is a shard s1 already"):
        add_shard(growing.router, "s1", urls[2])
    for name, url in (("S 3", urls[2]), ("s3", "nonsense"), ("s3", "postgresql://localhost")):
        with pytest.raises(ConfigError):
            add_shard(growing.router, name, url)
    for call in (drain_shard, remove_shard):
        with pytest.raises(NoSuchShard):
            call(growing.router, "s9")


def test_a_password_is_neither_stored_nor_shown(growing: Place, urls: list[str]) -> None:
    secret = "hunter2-marker"
    add_shard(growing.router, "s2", urls[2].replace("shardpool@", f"shardpool:{secret}@"))
    assert secret not in repr(growing.catalog("SELECT * FROM shardpool_catalog.shard"))
    remove_shard(growing.router, "s2")
    with pytest.raises(ShardUnavailable) as caught:
        add_shard(growing.router, "s2", f"postgresql://shardpool:{secret}@127.0.0.1:1/app")
    assert secret not in str(caught.value)


@pytest.mark.parametrize("what", ["encoding", "collation"])
def test_a_database_that_differs(growing: Place, urls: list[str], what: str) -> None:
    ((own,),) = growing.sql("s0", "SELECT datcollate FROM pg_database WHERE datname = current_database()")
    other = "C" if own != "C" else "C.UTF-8"
    options, difference = {
        "encoding": ("ENCODING 'LATIN1' LOCALE 'C'", "the encoding is LATIN1 on shard s2 and UTF8 on shard s0"),
        "collation": (f"LC_COLLATE '{other}'", rf"\(datcollate\) is {other} on shard s2 and {own} on shard s0"),
    }[what]
    growing.sql("s0", f"CREATE DATABASE another TEMPLATE template0 {options}")
    url = urls[0].rsplit("/", 1)[0] + "/another"
    try:
        with pytest.raises(PreflightFailed, match=difference):
            add_shard(growing.router, "s2", url)
    finally:
        growing.sql("s0", "DROP DATABASE another WITH (FORCE)")


def test_a_server_of_another_version(growing: Place) -> None:
    ((own,),) = growing.sql("s0", "SELECT current_setting('server_version_num')::int / 10000")
    other = 16 if own == 18 else 18
    with LocalCluster(shards=1, version=other) as cluster:
        difference = f"PostgreSQL's major version is {other} on shard s2 and {own} on shard s0"
        with pytest.raises(PreflightFailed, match=difference):
            add_shard(growing.router, "s2", cluster.url("s0"))
    assert set(growing.router.shard_map.shards) == {"s0", "s1"}


def test_a_shard_that_came_to_differ_takes_no_partition(growing: Place) -> None:
    """As after an upgrade of its operating system: the preflight of a move looks again."""
    target = growing.other(0)
    change = "UPDATE pg_database SET datcollversion = {} WHERE datname = current_database()"
    ((before,),) = growing.sql(target, "SELECT datcollversion FROM pg_database WHERE datname = current_database()")
    growing.sql(target, change.format("'2.99'"))
    try:
        with pytest.raises(PreflightFailed, match=r"the version of the collation is 2\.99 on shard"):
            move_partition(growing.router, 0, target)
    finally:
        growing.sql(target, change.format("NULL" if before is None else f"'{before}'"))
    growing.assert_clean()


def test_a_relation_behind_the_name(growing: Place, urls: list[str]) -> None:
    growing.known["s2"] = Endpoint(urls[2])
    growing.sql("s2", "CREATE TABLE public.orders ()")
    try:
        with pytest.raises(Exception, match="SP262"):
            add_shard(growing.router, "s2", urls[2])
    finally:
        growing.sql("s2", "DROP TABLE public.orders")
        growing.known.pop("s2")
    assert set(growing.router.shard_map.shards) == {"s0", "s1"}
