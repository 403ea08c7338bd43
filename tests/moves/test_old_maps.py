"""Routers and sessions whose map is old: they fail or go on at the new place, and never read what is not theirs."""

from __future__ import annotations

import pytest

from shardpool import Router
from shardpool.errors import PreflightFailed
from shardpool.moves import checks, move_partition
from tests.moves.move_tools import Place, schema


def test_a_router_whose_map_is_ten_epochs_old(place: Place) -> None:
    """It reads and writes every partition at its first try, wherever these have gone meanwhile."""
    with Router(place.config, listen=False) as old:
        old.refresh()
        before = old.shard_map.epoch
        for _ in range(3):
            for partition in range(4):
                move_partition(place.router, partition, place.other(partition))
        place.router.refresh()
        assert old.shard_map.epoch == before <= place.router.shard_map.epoch - 10
        for key in range(60):
            changed = old.execute(key, "UPDATE plain SET extra = :k WHERE customer_id = :k", {"k": key})
            assert changed.rowcount == 1  # type: ignore[attr-defined]
        found = old.query("SELECT customer_id, extra FROM plain ORDER BY 1").all()
        assert [tuple(row) for row in found] == [(key, key) for key in range(60)]
        assert old.shard_map.epoch == place.router.shard_map.epoch


@pytest.mark.parametrize("checked", [True, False])
def test_nothing_stands_behind_the_name(place: Place, monkeypatch: pytest.MonkeyPatch, checked: bool) -> None:
    """Planted: without the check a stale statement would find another table, and no error."""
    source = place.owner(0)
    place.sql(source, "CREATE TABLE public.plain (customer_id bigint, payload text, extra int)")
    try:
        with place.session(source, 0) as stale:
            stale.execute("SELECT count(*) FROM plain")
            if checked:
                with pytest.raises(PreflightFailed, match=r"has a relation public\.plain"):
                    move_partition(place.router, 0, place.other(0))
                return
            monkeypatch.setattr(checks, "find_behind", lambda *_: [])
            move_partition(place.router, 0, place.other(0))
            stale.execute("SELECT count(*) FROM plain")
            assert stale.fetchone() == (0,), f"it reads what is no part of {schema(0)}"
    finally:
        place.sql(source, "DROP TABLE public.plain")
