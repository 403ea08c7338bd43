"""Splits and merges whose process dies or freezes at each step: all rows once, in old partitions or new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from shardpool.errors import MoveInProgress, PreflightFailed
from shardpool.moves import ChangePlan, change_partitions, plan_merge, plan_split
from tests.faults.test_move_steps import POINTS, committed, recover_all
from tests.moves.change_tools import all_rows, merge, partition_ids, split
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Mover, Place
from tests.support.backends import databases
from tests.support.waiting import eventually

BY_HAND = pytest.mark.slow
FREEZES = ["move:copy:inside", "move:last:inside", "move:fence:after", "move:flip:before", "move:flip:after"]


@pytest.fixture(scope="module")
def own(server_urls: list[str]) -> Iterator[Place]:
    """Two shards, and two partitions at first."""
    with databases(server_urls[:2]) as urls:
        place = Place(shop_config(urls, partitions=2))
        try:
            place.fill(customers=30)
            yield place
        finally:
            place.close()


def splitting(place: Place) -> ChangePlan:
    """The lower half stays, the upper one goes elsewhere."""
    first = partition_ids(place)[0]
    return plan_split(place.router, first, to=place.other(first))


def merging(place: Place) -> ChangePlan:
    """Partitions of two shards become one."""
    first = partition_ids(place)[0]
    report = split(place, first, to=place.other(first))
    return plan_merge(place.router, report.partitions)


def undo(place: Place) -> None:
    """Have two partitions again, so that the tests stay alike."""
    while len(found := partition_ids(place)) > 2:
        merge(place, *found[:2])


def every(step: int) -> list[object]:
    return [
        pytest.param(make, point, marks=BY_HAND if (at + offset) % step else ())
        for offset, make in enumerate((splitting, merging))
        for at, point in enumerate(POINTS)
    ]


@pytest.mark.parametrize(("make", "point"), every(8))
def test_a_change_that_is_killed(own: Place, make: Callable[[Place], ChangePlan], point: str) -> None:
    plan, before = make(own), all_rows(own)
    old = partition_ids(own)
    Mover(own.config, 0, "", point, plan=plan).wait_killed()
    recover_all(own)
    assert (partition_ids(own) != old) == committed(point)
    assert all_rows(own) == before
    own.assert_clean()
    if not committed(point):
        change_partitions(own.router, plan)  # it may be repeated
        assert all_rows(own) == before
    undo(own)
    own.assert_clean()


@pytest.mark.parametrize(("make", "point"), every(9))
def test_a_change_that_is_gone_on_with(own: Place, make: Callable[[Place], ChangePlan], point: str) -> None:
    """By the same call."""
    plan, before = make(own), all_rows(own)
    Mover(own.config, 0, "", point, plan=plan).wait_killed()

    def finished() -> bool:
        try:
            change_partitions(own.router, plan)
        except MoveInProgress:
            return False
        except PreflightFailed as error:
            assert committed(point), error
            return True
        return True

    eventually(finished, "the process is gone, and the change is complete")
    recover_all(own)
    assert not set(partition_ids(own)) & {number for number, _ in plan.sources}
    assert all_rows(own) == before
    own.assert_clean()
    undo(own)


@pytest.mark.parametrize("point", [pytest.param(it, marks=BY_HAND if at else ()) for at, it in enumerate(FREEZES)])
@pytest.mark.parametrize("make", [splitting, merging])
def test_a_change_that_is_frozen_and_wakes(own: Place, make: Callable[[Place], ChangePlan], point: str) -> None:
    plan, before = make(own), all_rows(own)
    old = partition_ids(own)
    mover = Mover(own.config, 0, "", point, kill=False, plan=plan)
    mover.wait_frozen()
    recover_all(own, frozen_after=0.0)
    assert (partition_ids(own) != old) == committed(point)
    assert mover.thaw() == 3
    assert (partition_ids(own) != old) == committed(point)
    assert all_rows(own) == before
    own.assert_clean()
    undo(own)
