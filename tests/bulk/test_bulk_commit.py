"""All shards or none: two-phase commit, the decision, and its resolver, with every message that can get lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest

from shardpool.bulk import copy_into, decision, resolve_loads
from shardpool.bulk.decision import decide_commit, new_load, prepared_gid
from shardpool.catalog import Catalog
from shardpool.engines.pool import owners
from shardpool.errors import (
    CatalogUnavailable,
    LoadError,
    LoadInDoubt,
    OutcomeUnknown,
    ShardUnavailable,
    StalePlacement,
)
from shardpool.local import LocalCluster
from tests.bulk.bulk_tools import Shop, connect, make_shop

ROWS = [(number, f"n{number}", None, None, None) for number in range(100)]


class Spy:
    """Engines whose connections tell *on_call* of each call before and after it, and may be told to lie."""

    def __init__(self, shop: Shop, on_call: Callable[[str, str, str, Any], None]) -> None:
        self._engines = shop.engines
        self._on_call = on_call

    @contextmanager
    def borrow(self, shard: str) -> Iterator[Any]:
        self._on_call("before", shard, "borrow", None)
        with self._engines.borrow(shard) as connection:
            spied = _SpiedConnection(connection, shard, self._on_call)
            owners[spied] = owners[connection]
            yield spied


class _SpiedConnection:
    def __init__(self, connection: Any, shard: str, on_call: Callable[[str, str, str, Any], None]) -> None:
        self._connection, self._shard, self._on_call = connection, shard, on_call

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._connection, name)
        if not name.startswith("tpc_"):
            return attribute

        def spied(*arguments: Any) -> Any:
            self._on_call("before", self._shard, name, self._connection)
            result = attribute(*arguments)
            self._on_call("after", self._shard, name, self._connection)
            return result

        return spied


def lose_connection(connection: Any) -> None:
    """What a broken network looks like to the caller."""
    connection.close()
    raise psycopg2.OperationalError("server closed the connection unexpectedly")


def load(shop: Shop, on_call: Callable[[str, str, str, Any], None], rows: Any = ROWS) -> Any:
    return copy_into(shop.topology, Spy(shop, on_call), shop.catalog, "item", rows)  # type: ignore[arg-type]


def test_several_shards_commit_in_two_phases(shop: Shop) -> None:
    calls: list[tuple[str, str]] = []
    load(shop, lambda when, shard, name, connection: calls.append((name, shard)) if when == "before" else None)
    names = [name for name, _ in calls]
    assert sorted(set(names), key=names.index) == ["borrow", "tpc_begin", "tpc_prepare", "tpc_commit"]
    assert len(calls) == 8
    assert len(shop.rows("item")) == 100
    assert shop.decisions() == [True]


def test_one_shard_commits_plainly(shop: Shop) -> None:
    row = (shop.key_on("s1"), None, None, None, None)
    calls: list[str] = []
    load(shop, lambda when, shard, name, connection: calls.append(f"{when} {shard} {name}"), [row])
    assert [call for call in calls if call.startswith("before")] == [
        "before s1 borrow",
        "before s1 tpc_begin",
        "before s1 tpc_commit",
    ]
    assert shop.decisions() == []
    assert len(shop.rows("item")) == 1


def test_a_lost_acknowledgement_of_the_only_commit_is_an_unknown_outcome(shop: Shop) -> None:
    def on_call(when: str, shard: str, name: str, connection: Any) -> None:
        if (when, name) == ("after", "tpc_commit"):
            lose_connection(connection)

    with pytest.raises(OutcomeUnknown, match="s0"):
        load(shop, on_call, [(shop.key_on("s0"), None, None, None, None)])
    assert len(shop.rows("item")) == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("shard", ["s0", "s1"])
def test_a_connection_lost_at_prepare_rolls_back(shop: Shop, when: str, shard: str) -> None:
    def on_call(now: str, where: str, name: str, connection: Any) -> None:
        if (now, where, name) == (when, shard, "tpc_prepare"):
            lose_connection(connection)

    with pytest.raises(ShardUnavailable, match="unexpectedly"):
        load(shop, on_call)
    assert shop.rows("item") == shop.prepared() == shop.decisions() == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("shard", ["s0", "s1"])
def test_a_connection_lost_at_commit_is_replaced(shop: Shop, when: str, shard: str) -> None:
    lost = []

    def on_call(now: str, where: str, name: str, connection: Any) -> None:
        if (now, where, name) == (when, shard, "tpc_commit") and not lost:
            lost.append(shard)
            lose_connection(connection)

    assert load(shop, on_call).rows == 100
    assert len(shop.rows("item")) == 100
    assert lost == [shard]


def test_a_shard_lost_at_commit_leaves_the_load_in_doubt_and_then_whole(shop: Shop) -> None:
    lost = []

    def on_call(when: str, shard: str, name: str, connection: Any) -> None:
        if (when, shard, name) == ("before", "s0", "tpc_commit"):
            lost.append(shard)
            lose_connection(connection)
        if lost and (shard, name) == ("s0", "borrow"):
            raise ShardUnavailable("s0", "gone")

    with pytest.raises(LoadInDoubt, match=r"is decided: commit.*s0.*gone") as caught:
        load(shop, on_call)
    (gid,) = shop.prepared()
    assert gid.removesuffix(":s0") in str(caught.value)
    assert 0 < len(shop.rows("item")) < 100
    assert resolve_loads(shop.catalog, shop.engines, shop.urls) == []  # too young
    (resolved,) = resolve_loads(shop.catalog, shop.engines, shop.urls, older_than=0)
    assert (resolved.shard, resolved.gid, resolved.committed) == ("s0", gid, True)
    assert len(shop.rows("item")) == 100


def test_a_resolver_that_was_faster_decides(shop: Shop) -> None:
    """Both prepared; before the load decides, a resolver finds it abandoned."""
    prepared = []

    def on_call(when: str, shard: str, name: str, connection: Any) -> None:
        if (when, name) == ("after", "tpc_prepare"):
            prepared.append(shard)

    class Slow(Catalog):
        def begin(self, isolation: str = "READ COMMITTED") -> Any:
            if len(prepared) == 2 and not shop.decisions():
                resolved = resolve_loads(shop.catalog, shop.engines, shop.urls, older_than=0)
                assert [one.committed for one in resolved] == [False, False]
            return super().begin(isolation)

    slow = Slow(shop.config.catalog, "shop")
    try:
        with pytest.raises(LoadError, match="a resolver decided against it"):
            copy_into(shop.topology, Spy(shop, on_call), slow, "item", ROWS)  # type: ignore[arg-type]
    finally:
        slow.close()
    assert shop.rows("item") == []
    assert shop.decisions() == [False]


class Unreliable(Catalog):
    """A catalog whose transactions *fail_at* (from 1) to *until* fail, before or after they do their work."""

    def __init__(self, shop: Shop, when: str, fail_at: int, until: int) -> None:
        super().__init__(shop.config.catalog, "shop")
        self._when, self._range, self._count = when, range(fail_at, until + 1), 0

    @contextmanager
    def begin(self, isolation: str = "READ COMMITTED") -> Iterator[Any]:
        self._count += 1
        fails = self._count in self._range
        if fails and self._when == "before":
            raise CatalogUnavailable("lost")
        with super().begin(isolation) as connection:
            yield connection
        if fails:
            raise CatalogUnavailable("lost")


@pytest.fixture
def unreliable(shop: Shop) -> Iterator[Callable[[str, int, int], Unreliable]]:
    catalogs = []

    def make(when: str, fail_at: int, until: int) -> Unreliable:
        catalogs.append(Unreliable(shop, when, fail_at, until))
        return catalogs[-1]

    yield make
    for catalog in catalogs:
        catalog.close()


def test_a_catalog_that_is_down_is_found_before_anything_is_prepared(shop: Shop, unreliable: Any) -> None:
    with pytest.raises(CatalogUnavailable):
        copy_into(shop.topology, shop.engines, unreliable("before", 1, 9), "item", ROWS)
    assert shop.rows("item") == shop.prepared() == []


@pytest.mark.parametrize(("when", "committed"), [("before", False), ("after", True)])
def test_a_lost_acknowledgement_of_the_decision_is_read_again(
    shop: Shop, unreliable: Any, when: str, committed: bool
) -> None:
    catalog = unreliable(when, 2, 3)
    if committed:
        assert copy_into(shop.topology, shop.engines, catalog, "item", ROWS).rows == 100
    else:
        with pytest.raises(LoadError, match="was rolled back"):
            copy_into(shop.topology, shop.engines, catalog, "item", ROWS)
    assert len(shop.rows("item")) == (100 if committed else 0)
    assert shop.decisions() == [committed]


@pytest.mark.parametrize(("when", "committed"), [("before", False), ("after", True)])
def test_a_catalog_that_stays_silent_leaves_the_load_in_doubt(
    shop: Shop, unreliable: Any, when: str, committed: bool
) -> None:
    with pytest.raises(LoadInDoubt, match="shardpool:load:shop:"):
        # "after": the first failure follows a decision that was taken; the others hide it.
        copy_into(shop.topology, shop.engines, unreliable(when, 2, 99), "item", ROWS)
    assert len(shop.prepared()) == 2
    assert shop.rows("item") == []
    resolved = resolve_loads(shop.catalog, shop.engines, shop.urls, older_than=0)
    assert [one.committed for one in resolved] == [committed] * 2
    assert len(shop.rows("item")) == (100 if committed else 0)


def test_gids_fit_and_belong_to_one_keyspace(shop: Shop) -> None:
    assert len(prepared_gid(new_load("k" * 40), "s" * 63)) < 200
    mine, theirs = "shardpool:load:shop:1:s0", "shardpool:load:shopx:1:s0"
    for number, gid in enumerate((mine, theirs, "something else", "shardpool:loadXshop:1:s0")):
        shop.execute("s0", f"BEGIN; CREATE TABLE public.t{number} (); PREPARE TRANSACTION '{gid}'")
    try:
        assert [one.gid for one in resolve_loads(shop.catalog, shop.engines, shop.urls, older_than=0)] == [mine]
    finally:
        for gid in shop.prepared():
            shop.execute("s0", f"ROLLBACK PREPARED '{gid}'")


def test_a_resolver_passes_over_a_shard_that_is_down(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    gid = prepared_gid(new_load("shop"), "s1")
    decide_commit(shop.catalog, gid.removesuffix(":s1"))
    shop.execute("s1", f"BEGIN; INSERT INTO shop.country VALUES ('x'); PREPARE TRANSACTION '{gid}'")

    def on_call(when: str, shard: str, name: str, connection: Any) -> None:
        if (shard, name) == ("s0", "borrow"):
            raise ShardUnavailable("s0", "gone")

    spy: Any = Spy(shop, on_call)
    assert [one.gid for one in resolve_loads(shop.catalog, spy, ["s0", "s1"], older_than=0)] == [gid]
    assert "loads on shard s0 could not be resolved" in caplog.text
    assert shop.rows_on("s1", "SELECT code FROM shop.country") == [("x",)]


def test_two_decisions_for_one_load(shop: Shop) -> None:
    decide_commit(shop.catalog, "a")
    assert decision.decision(shop.catalog, "a")
    assert not decision.decision(shop.catalog, "b")
    for gid in ("a", "b"):
        with pytest.raises(LoadError, match=f"load {gid} was rolled back"):
            decide_commit(shop.catalog, gid)


def test_a_deferred_constraint_fails_the_whole_load(shop: Shop) -> None:
    (placement, *_) = [one for one in shop.topology.shard_map.placements if one.shard == "s1"]
    table = f"{placement.partition.schema}.single"
    shop.execute("s1", f"ALTER TABLE {table} ADD CONSTRAINT u UNIQUE (k) DEFERRABLE INITIALLY DEFERRED")
    try:
        with pytest.raises(LoadError, match=r"duplicate key value.*already exists"):
            shop.load("single", [(f"k{number % 50}",) for number in range(100)])
    finally:
        shop.execute("s1", f"ALTER TABLE {table} DROP CONSTRAINT u")
    assert shop.rows("single") == []


def test_a_moved_partition_is_a_stale_placement(shop: Shop) -> None:
    schema = shop.topology.shard_map.placements[1].partition.schema
    shop.execute("s1", f"ALTER SCHEMA {schema} RENAME TO moved")
    try:
        with pytest.raises(StalePlacement, match=f'schema "{schema}" does not exist'):
            shop.load("item", ROWS)
    finally:
        shop.execute("s1", f"ALTER SCHEMA moved RENAME TO {schema}")
    assert shop.rows("item") == []


def test_a_table_that_is_gone_is_a_stale_placement(shop: Shop) -> None:
    schema = shop.topology.shard_map.placements[1].partition.schema
    shop.execute("s1", f"ALTER TABLE {schema}.item RENAME TO gone")
    try:
        with pytest.raises(StalePlacement, match=f'relation "{schema}.item" does not exist'):
            shop.load("item", ROWS)
    finally:
        shop.execute("s1", f"ALTER TABLE {schema}.gone RENAME TO item")
    assert shop.rows("item") == []


def test_triggers_see_the_partition(shop: Shop) -> None:
    """Names in a function resolve in the partition's schema, as they do for `router.execute`."""
    placement = shop.topology.shard_map.placements[0]
    schema = placement.partition.schema
    shop.execute(
        placement.shard,
        "CREATE FUNCTION shop.note() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO single VALUES (NEW.name); RETURN NEW; END'; "
        f"CREATE TRIGGER note BEFORE INSERT ON {schema}.item FOR EACH ROW EXECUTE FUNCTION shop.note()",
    )
    try:
        result = shop.load("item", ROWS)
        noted = shop.rows_on(placement.shard, f"SELECT count(*) FROM {schema}.single")
        assert noted == [(result.partitions[placement.partition.id],)]
    finally:
        shop.execute(placement.shard, "DROP FUNCTION shop.note CASCADE")


def test_a_trigger_that_refuses_is_told_as_it_is(shop: Shop) -> None:
    """Its SQLSTATE is also that of servers without prepared transactions."""
    table = f"{shop.topology.shard_map.placements[0].partition.schema}.item"
    body = "BEGIN RAISE EXCEPTION 'closed today' USING ERRCODE = 'object_not_in_prerequisite_state'; END"
    shop.execute("s0", f"CREATE FUNCTION closed() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
    shop.execute("s0", f"CREATE TRIGGER t BEFORE INSERT ON {table} EXECUTE FUNCTION closed()")
    try:
        with pytest.raises(LoadError, match="closed today"):
            shop.load("item", ROWS)
    finally:
        shop.execute("s0", f"DROP TRIGGER t ON {table}")
        shop.execute("s0", "DROP FUNCTION closed()")


def test_a_slow_source_does_not_end_the_transaction(shop: Shop) -> None:
    """Whatever the server's limit for idle transactions is, it does not hold within a load."""
    placement = shop.topology.shard_map.placements[0]
    schema = placement.partition.schema
    shop.execute(
        placement.shard,
        "ALTER ROLE CURRENT_USER SET idle_in_transaction_session_timeout = '10min'; "
        "CREATE FUNCTION shop.note() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.name := current_setting(''idle_in_transaction_session_timeout''); RETURN NEW; END'; "
        f"CREATE TRIGGER note BEFORE INSERT ON {schema}.item FOR EACH ROW EXECUTE FUNCTION shop.note()",
    )
    fresh = Shop(shop.urls)
    try:
        fresh.load("item", ROWS)
        assert shop.rows_on(placement.shard, f"SELECT DISTINCT name FROM {schema}.item") == [("0",)]
    finally:
        fresh.close()
        shop.execute(
            placement.shard,
            "DROP FUNCTION shop.note CASCADE; ALTER ROLE CURRENT_USER RESET idle_in_transaction_session_timeout",
        )


def test_servers_without_prepared_transactions() -> None:
    settings = {"max_prepared_transactions": 0}
    with LocalCluster(shards=2, partitions=4, keyspace="shop", settings=settings) as cluster:
        shop = make_shop({name: cluster.url(name) for name in cluster.names})
        try:
            with pytest.raises(LoadError, match=r"max_prepared_transactions = 0.*postgresql\.conf"):
                shop.load("item", ROWS)
            assert shop.rows("item") == []
            shop.load("item", [(shop.key_on("s1"), None, None, None, None)])
            assert len(shop.rows("item")) == 1
            cluster.stop("s1")
            with pytest.raises(ShardUnavailable, match="s1"):
                shop.load("item", ROWS)
            assert shop.rows_on("s0", "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'") == [(0,)]
        finally:
            shop.close()


def test_a_server_that_crashes_during_a_load() -> None:
    with LocalCluster(shards=2, partitions=4, keyspace="shop") as cluster:
        shop = make_shop({name: cluster.url(name) for name in cluster.names})

        def rows() -> Iterator[tuple[Any, ...]]:
            yield from ROWS
            cluster.kill("s1")
            for number in range(100, 100_000):
                yield (number, "x" * 100, None, None, None)

        try:
            with pytest.raises(ShardUnavailable, match="s1"):
                shop.load("item", rows(), batch_bytes=1000)
            cluster.start("s1")
            shop.direct["s1"] = connect(shop.urls["s1"])
            assert shop.rows("item") == []
        finally:
            shop.close()
