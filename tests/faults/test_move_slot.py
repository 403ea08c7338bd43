"""Commits that a replication slot tells of late: not yet on the disk, or in the log and not yet visible."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool.local import LocalCluster
from shardpool.moves import keys, move_partition, servers
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Background, Place, schema
from tests.moves.test_online import written_at
from tests.support.waiting import eventually

UPDATE = f"UPDATE {schema(1)}.plain SET extra = coalesce(extra, 0) + 1"


@pytest.fixture(scope="module")
def slow() -> Iterator[Place]:
    """Servers that write their log only when a commit asks for it. The first has the catalog, and no part in moves."""
    with LocalCluster(shards=3, settings={"wal_writer_delay": "10s", "bgwriter_delay": "10s"}) as cluster:
        place = Place(shop_config([cluster.url(name) for name in cluster.names], partitions=3))
        try:
            place.fill(customers=20)
            yield place
        finally:
            place.close()


def run_move(place: Place) -> bool:
    """Move partition 1; return whether all is there that its source had when writers began to wait."""
    source = place.owner(1)
    expected: list[str] = []
    honest = keys.SlotKeys.take

    def take(self: keys.SlotKeys, cursor: object, locked: bool) -> object:
        if locked:
            expected.append(place.digest(source, schema(1)))
        return honest(self, cursor, locked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys.SlotKeys, "take", take)
        move_partition(place.router, 1, {"s1": "s2", "s2": "s1"}[source], mode="logical")
    place.assert_clean()
    return place.digest(place.owner(1), schema(1)) == expected[-1]


@pytest.mark.parametrize("flushed", [True, False])
def test_a_commit_that_is_not_on_the_disk(slow: Place, monkeypatch: pytest.MonkeyPatch, flushed: bool) -> None:
    """A slot tells nothing of it: so the move has the log written first."""
    source = slow.owner(1)
    write = f"SET synchronous_commit = off; {UPDATE}"
    written_at(monkeypatch, {"move:catch_up:after": lambda: slow.sql(source, write)})
    if not flushed:
        monkeypatch.setattr(keys.SlotKeys, "_flush", lambda self, until: None)
    assert run_move(slow) == flushed


@pytest.mark.parametrize("seen", [True, False])
def test_a_commit_that_is_told_before_it_is_seen(slow: Place, monkeypatch: pytest.MonkeyPatch, seen: bool) -> None:
    """It waits for a replica, so that no snapshot has it: its keys are for a later round."""
    monkeypatch.setitem(servers.SETTINGS, "synchronous_commit", "local")
    if not seen:
        monkeypatch.setattr(keys.Snapshot, "sees", lambda self, xid: True)
    source = slow.owner(1)
    writing: list[Background] = []

    def replicas(names: str) -> None:
        slow.sql(source, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        slow.sql(source, "SELECT pg_reload_conf()")
        eventually(lambda: slow.sql(source, "SHOW synchronous_standby_names") == [(names,)], "the setting is read")

    def begin() -> None:
        replicas("nobody")
        writing.append(Background(lambda: slow.sql(source, f"SET synchronous_commit = on; {UPDATE}")))
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        eventually(lambda: bool(slow.sql(source, waits)), "the commit waits for a replica")

    def end() -> None:
        replicas("")
        writing[0].wait()

    written_at(monkeypatch, {"move:finish:after": begin, "move:catch_up:after": end})
    assert run_move(slow) == seen
