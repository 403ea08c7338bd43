"""Routers that settle what movers have left when they died, without being asked."""

from __future__ import annotations

from typing import Any

import pytest

from shardpool import Router
from shardpool.errors import MoveTakenOver
from shardpool.moves import capture, care_for_moves, move_partition, move_status
from shardpool.moves.locks import move_locked
from shardpool.moves.recovery import settle_partition
from tests.moves.move_tools import Mover, Place
from tests.support.waiting import eventually


@pytest.mark.parametrize(("point", "committed"), [("move:fence:after", False), ("move:flip:after", True)])
def test_a_router_that_starts_brings_a_partition_back(place: Place, point: str, committed: bool) -> None:
    """While nobody has it, statements wait, and then go on."""
    source, target, before = place.owner(0), place.other(0), place.contents()
    Mover(place.config, 0, target, point).wait_killed()
    with Router(place.config) as router:
        assert router.query("SELECT count(*) FROM customers").scalar_one() == 60
        eventually(lambda: move_status(place.router) == [], "it is settled")
    assert place.owner(0) == (target if committed else source)
    assert place.contents() == before
    place.assert_clean()


def test_a_router_that_runs_notices(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardpool.caretakers.INTERVAL", 0.1)
    with Router(place.config):
        Mover(place.config, 0, place.other(0), "move:drain:after").wait_killed()
        eventually(lambda: move_status(place.router) == [], "it is settled")
    place.assert_clean()


def test_a_move_that_may_be_gone_on_with_is_left_for_a_while(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    target = place.other(0)
    Mover(place.config, 0, target, "move:verify:after").wait_killed()
    care_for_moves(place.router)
    assert len(move_status(place.router)) == 1
    monkeypatch.setattr("shardpool.moves.recovery.FROZEN_AFTER", 0.0)
    care_for_moves(place.router)
    assert move_status(place.router) == []
    place.assert_clean()


def test_routers_leave_a_living_mover_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardpool.caretakers.INTERVAL", 0.01)
    with Router(place.config):
        for _ in range(3):
            assert move_partition(place.router, 0, place.other(0)).leftovers == ()
    place.assert_clean()


def test_who_settles_a_move_may_be_taken_over_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sessions are ended by the next one: that is told, and not what the driver says of it."""
    source, before = place.owner(0), place.contents()
    Mover(place.config, 0, place.other(0), "move:copy:after", mode="trigger").wait_killed()
    drop_schema = capture.drop_schema

    def taken_over(connection: Any, schema: str) -> bool:
        monkeypatch.setattr(capture, "drop_schema", drop_schema)
        settle_partition(place.router, 0)
        return drop_schema(connection, schema)

    monkeypatch.setattr(capture, "drop_schema", taken_over)
    with move_locked(place.router, 0, patience=10), pytest.raises(MoveTakenOver):
        settle_partition(place.router, 0)
    assert move_status(place.router) == []
    assert place.owner(0) == source and place.contents() == before
    place.assert_clean()
