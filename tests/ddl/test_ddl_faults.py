"""Crashes and lost connections in the middle of a schema change, and what the next one makes of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from shardpool.ddl import SchemaManager
from shardpool.ddl.change import Change
from shardpool.ddl.session import ShardSession
from shardpool.errors import CatalogUnavailable, SchemaError
from tests.ddl.ddl_tools import PARTITIONS, SHARDS, SHOP, TABLES, Place

ADD = "create type t as enum ('a'); alter table orders add column a t; create index i on orders (a)"


class Crash(BaseException):
    """The process dies here."""


@pytest.fixture
def shop(place: Place) -> Place:
    place.manager.create_schema(SHOP, TABLES)
    return place


def die(monkeypatch: pytest.MonkeyPatch, where: type, method: str, when: Callable[[Any], bool], after: bool) -> None:
    """Let *method* raise `Crash`, before or after its work; and let the dying process tidy nothing up."""
    original = getattr(where, method)

    def crashing(self: object, *arguments: object) -> object:
        if when(self) and not after:
            raise Crash
        result = original(self, *arguments)
        if when(self):
            raise Crash
        return result

    monkeypatch.setattr(where, method, crashing)
    monkeypatch.setattr("shardpool.ddl.apply.forget", lambda catalog, batch: None)


def applied(place: Place) -> dict[str, bool]:
    return place.everywhere("orders", "a")


def restarted(place: Place, monkeypatch: pytest.MonkeyPatch) -> SchemaManager:
    monkeypatch.undo()
    return SchemaManager(place.catalog, place.engines, lock_timeout=0.2)


@pytest.mark.parametrize("finish", ["resume", "create_schema", "another"])
def test_a_crash_between_the_commits_is_finished(shop: Place, monkeypatch: pytest.MonkeyPatch, finish: str) -> None:
    die(monkeypatch, ShardSession, "commit", lambda it: it.shard == "s0", after=True)
    with pytest.raises(Crash):
        shop.manager.create_schema(ADD, {})
    assert set(shop.log()[-3:]) == {(statement, "running") for statement in ADD.split("; ")}
    assert applied(shop) == {it: it in PARTITIONS["s0"] for shard in SHARDS for it in PARTITIONS[shard]}
    assert any("unfinished" in it.message for it in shop.drift())
    manager = restarted(shop, monkeypatch)
    if finish == "resume":
        assert [it.state for it in manager.resume()] == ["applied"] * 3
    elif finish == "create_schema":
        assert [it.state for it in manager.create_schema(ADD, {})] == ["unchanged"] * 3
    else:
        manager.create_schema("alter table orders add column b int", {})
    assert set(applied(shop).values()) == {True}
    assert {state for _, state in shop.log()} == {"done"}
    assert shop.catalog.load().tables["orders"].column("a") is not None
    assert shop.drift() == []
    assert manager.resume() == []


def test_a_crash_before_the_commits_is_undone(shop: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    log, epoch = shop.log(), shop.catalog.epoch()
    die(monkeypatch, ShardSession, "commit", lambda it: True, after=False)
    with pytest.raises(Crash):
        shop.manager.create_schema(ADD, {})
    assert len(shop.log()) == len(log) + 3
    assert restarted(shop, monkeypatch).resume() == []
    assert (shop.log(), shop.catalog.epoch()) == (log, epoch)
    assert set(applied(shop).values()) == {False}


def test_a_crash_after_all_commits_is_made_known(shop: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    die(monkeypatch, Change, "_register", lambda it: True, after=False)
    with pytest.raises(Crash):
        shop.manager.create_schema(ADD, {})
    assert set(applied(shop).values()) == {True}
    assert shop.catalog.load().tables["orders"].column("a") is None
    assert len(restarted(shop, monkeypatch).resume()) == 3
    assert shop.catalog.load().tables["orders"].column("a") is not None
    assert shop.drift() == []


@pytest.mark.parametrize(("shard", "finished"), [("s0", False), ("s1", True)])
def test_a_connection_that_breaks_at_the_commit(
    shop: Place, monkeypatch: pytest.MonkeyPatch, shard: str, finished: bool
) -> None:
    original = ShardSession.commit

    def breaking(self: ShardSession) -> None:
        if self.shard == shard:
            pid = self.connection.info.backend_pid
            shop.sql(shard, f"select pg_terminate_backend({pid}, 10000)")
        original(self)

    monkeypatch.setattr(ShardSession, "commit", breaking)
    with pytest.raises(SchemaError) as caught:
        shop.manager.create_schema(ADD, {})
    assert caught.value.code == "SP265"
    assert not caught.value.retryable
    assert bool(restarted(shop, monkeypatch).resume()) == finished
    assert set(applied(shop).values()) == {finished}
    assert shop.drift() == []


def test_a_connection_that_breaks_before_is_harmless(shop: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ShardSession.finish

    def breaking(self: ShardSession) -> None:
        original(self)
        if self.shard == "s1":
            shop.sql("s1", f"select pg_terminate_backend({self.connection.info.backend_pid}, 10000)")

    monkeypatch.setattr(ShardSession, "finish", breaking)
    log = shop.log()
    with pytest.raises(Exception, match="s1") as caught:
        shop.manager.create_schema(ADD, {})
    assert getattr(caught.value, "retryable", False)
    assert shop.log() == log
    assert set(applied(shop).values()) == {False}


def test_the_catalog_is_gone_at_the_end(shop: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object) -> None:
        raise CatalogUnavailable("gone")

    monkeypatch.setattr(shop.catalog, "save_tables", gone)
    with pytest.raises(SchemaError, match="the catalog") as caught:
        shop.manager.create_schema(ADD, {})
    assert caught.value.code == "SP265"
    assert restarted(shop, monkeypatch).resume()
    assert shop.catalog.load().tables["orders"].column("a") is not None


@pytest.mark.parametrize("what", ["epoch", "log"])
def test_somebody_else_took_over(shop: Place, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The catalog's lock was lost unnoticed: another process moved a partition, or judged the change to be dead."""
    original = Change._inspect

    def disturbed(self: Change, *arguments: object) -> object:
        if what == "epoch":
            with shop.catalog.begin() as connection:
                shop.catalog.bump(connection)
        else:
            shop.sql("s0", "delete from shardpool_catalog.ddl where state = 'running'")
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Change, "_inspect", disturbed)
    log = shop.log()
    with pytest.raises(SchemaError) as caught:
        shop.manager.create_schema(ADD, {})
    assert caught.value.code == "SP269"
    assert shop.log() == log
    assert set(applied(shop).values()) == {False}


def test_who_comes_late_does_not_overwrite(shop: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen after its commits, the change was finished by another process, and followed by another change."""
    second = SchemaManager(shop.catalog, shop.engines, lock_timeout=0.2)
    monkeypatch.setattr(second, "_locked", lambda *_, **options: nullcontext())
    original = Change._register

    def late(self: Change, findings: object) -> None:
        monkeypatch.setattr(Change, "_register", original)
        assert second.resume()
        second.create_schema("drop index i; alter table orders drop column a", {})
        original(self, findings)  # type: ignore[arg-type]

    monkeypatch.setattr(Change, "_register", late)
    shop.manager.create_schema(ADD, {})
    assert shop.catalog.load().tables["orders"].column("a") is None
    assert shop.drift() == []


def test_a_change_that_still_runs_is_not_taken_for_dead(shop: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shards' locks tell, should the catalog's lock be lost: whoever wants to resume it waits."""
    second = SchemaManager(shop.catalog, shop.engines, lock_timeout=0.1, attempts=2)
    monkeypatch.setattr(second, "_locked", lambda *_, **options: nullcontext())
    original, codes = Change._inspect, []

    def overtaken(self: Change, *arguments: object) -> object:
        if not codes:
            with pytest.raises(SchemaError) as caught:
                second.resume()
            codes.append(caught.value.code)
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Change, "_inspect", overtaken)
    shop.manager.create_schema(ADD, {})
    assert codes == ["SP264"]
    assert set(applied(shop).values()) == {True}


def test_what_stands_in_the_way_of_finishing_is_said(shop: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    die(monkeypatch, ShardSession, "commit", lambda it: it.shard == "s0", after=True)
    with pytest.raises(Crash):
        shop.manager.create_schema("alter table orders add column a int not null", {})
    shop.sql("s1", "insert into shop_p0003.customers (customer_id) values (1)")
    shop.sql("s1", "set search_path to shop_p0003, shop; insert into orders (customer_id, id) values (1, 1)")
    manager = restarted(shop, monkeypatch)
    with pytest.raises(SchemaError, match="shop_p0003"):
        manager.resume()
    with pytest.raises(SchemaError, match="SP268"):
        manager.prepare_shard("s2")
    shop.sql("s1", "delete from shop_p0003.orders")
    assert manager.resume()
    assert set(applied(shop).values()) == {True}
