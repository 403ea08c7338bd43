"""The way back: the old side is kept after a move, and going back is a cutover."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shardpool.errors import MoveInProgress, PreflightFailed, SchemaError
from shardpool.moves import abort_move, care_for_moves, move_partition, move_status, recover_moves
from shardpool.moves.journal import Journal
from shardpool.moves.keeping import keep_current
from shardpool.moves.steps import is_committed
from tests.moves.move_tools import Background, Gates, Mover, Place, schema
from tests.moves.test_online import FEATURES, Scribe, written_at
from tests.support.waiting import eventually

HOUR = 3600.0
BY_HAND = pytest.mark.slow


def go_back(place: Place, to: str) -> None:
    """Move partition 0 back, once the process that had worked on it is known to be gone."""

    def gone() -> bool:
        try:
            move_partition(place.router, 0, to)
        except MoveInProgress:
            return False
        return True

    eventually(gone, "it is moved back")


@pytest.mark.parametrize("seed", range(3))
def test_there_and_back(place: Place, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """What was written in between, on either side of the switch, is on the old side again, and nothing was copied."""
    scribe, source, target = Scribe(place, seed), place.owner(0), place.other(0)
    features = place.sql(source, FEATURES.format(schema=schema(0)))
    points = {
        f"move:{it}": scribe.write for it in ("copy:after", "switch_on:after", "validate:after", "release:before")
    }
    written_at(monkeypatch, {**points, "move:hand_over:inside": scribe.write})
    move_partition(place.router, 0, target, keep=HOUR)
    for _ in range(5):
        scribe.write()
    (status,) = move_status(place.router)
    assert (status.source, status.target, status.frozen) == (target, source, False)
    assert status.until is not None
    assert recover_moves(place.router, frozen_after=0.0) == []  # it is not an accident
    expected = place.digest(target, schema(0))
    written_at(monkeypatch, {})
    report = move_partition(place.router, 0, source)
    assert report.move == status.move and report.rows == report.bytes == 0
    assert place.owner(0) == source and place.digest(source, schema(0)) == expected
    assert place.sql(source, FEATURES.format(schema=schema(0))) == features
    place.assert_clean()


def test_it_ends_when_its_time_has_passed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    target, before = place.other(0), place.contents()
    move_partition(place.router, 0, target, keep=HOUR)
    with pytest.raises(SchemaError, match="SP261"):
        place.router.create_schema("ALTER TABLE plain ADD COLUMN never int")
    monkeypatch.setattr("shardpool.moves.recovery.FROZEN_AFTER", 0.0)
    care_for_moves(place.router)
    assert len(move_status(place.router)) == 1
    with place.router.catalog.begin() as connection:
        connection.exec_driver_sql("UPDATE shardpool_catalog.move SET detail = detail || '{\"until\": 0}'")
    care_for_moves(place.router)
    assert place.owner(0) == target and place.contents() == before
    place.assert_clean()


def test_it_is_kept_current(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is written: it is carried over before anybody wants it, so that little is left for the cutover."""
    source, target = place.owner(0), place.other(0)
    move_partition(place.router, 0, target, keep=HOUR)
    key = next(key for key in range(60) if place.router.partition_of(key).id == 0)
    logged = f"SELECT count(*) FROM {logs(place, target)}"
    for number in range(2):
        write = f"INSERT INTO {schema(0)}.things (customer_id, id) SELECT {key}, {number} * 1000 + i"
        place.sql(target, f"{write} FROM generate_series(101, 200) i")
        care_for_moves(place.router)
        assert place.sql(target, logged) == [(100,)]  # too few to be worth it
        place.sql(target, f"{write} FROM generate_series(201, 1100) i")
        care_for_moves(place.router)
        assert place.sql(target, logged) == [(0,)]
        ((old,),) = place.sql(source, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'shop_p0000__incoming%'")
        assert place.digest(source, old) == place.digest(target, schema(0))
    expected = place.digest(target, schema(0))
    assert len(move_status(place.router)) == 1
    report = move_partition(place.router, 0, source)
    assert report.rows == 0 and place.digest(source, schema(0)) == expected
    place.assert_clean()


def test_who_goes_back_does_not_wait_for_who_keeps_it_current(place: Place, gates: Gates) -> None:
    source, target = place.owner(0), place.other(0)
    move_partition(place.router, 0, target, keep=HOUR)
    key = next(key for key in range(60) if place.router.partition_of(key).id == 0)
    place.sql(target, f"INSERT INTO {schema(0)}.audit SELECT {key}, 1, 'x' FROM generate_series(1, 1000)")
    expected = place.digest(target, schema(0))
    gates.close("move:round:inside")
    (record,) = Journal(place.router.catalog).running(0)
    keeping = Background(lambda: keep_current(place.router, record))
    gates.wait_for("move:round:inside")
    assert keep_current(place.router, record) is False  # one at a time
    gates.forget("move:round:inside")
    assert move_partition(place.router, 0, source).rows == 0
    assert place.owner(0) == source and place.digest(source, schema(0)) == expected
    gates.open_all()
    assert keeping.wait() is False
    assert keep_current(place.router, record) is False
    assert place.digest(source, schema(0)) == expected
    place.assert_clean()


def logs(place: Place, shard: str) -> str:
    """The log of `things`."""
    ((name,),) = place.sql(shard, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'shop_p0000__capture%'")
    return f"{name}.log_6"


def ended_by_abort(place: Place) -> None:
    assert abort_move(place.router, 0).outcome == "undone"


def ended_by_another_move(place: Place) -> None:
    """Of another way: nothing of the first is left."""
    with pytest.raises(PreflightFailed, match="already"):
        move_partition(place.router, 0, place.owner(0))


@pytest.mark.parametrize("end", [ended_by_abort, ended_by_another_move])
def test_it_ends_before(place: Place, end: Callable[[Place], None]) -> None:
    target, before = place.other(0), place.contents()
    move_partition(place.router, 0, target, keep=HOUR)
    end(place)
    assert place.owner(0) == target and place.contents() == before
    place.assert_clean()


POINTS = [f"move:{it}" for it in ("last:after", "fence:after", "flip:inside", "flip:after", "switch_on:after")]
POINTS += [f"move:{it}" for it in ("release:before", "hand_over:inside", "release:after")]


@pytest.mark.parametrize("point", [pytest.param(it, marks=BY_HAND if at % 2 else ()) for at, it in enumerate(POINTS)])
def test_a_mover_that_is_killed_where_the_way_back_begins(place: Place, point: str) -> None:
    source, target, before = place.owner(0), place.other(0), place.contents()
    Mover(place.config, 0, target, point, mode="trigger", keep=HOUR).wait_killed()
    eventually(lambda: not recover_moves(place.router), "it is settled")
    assert place.contents() == before
    step = point.split(":")[1]
    committed = is_committed("trigger", step) or point in ("move:flip:after", "move:hand_over:inside")
    assert place.owner(0) == (target if committed else source)
    if committed:
        (status,) = move_status(place.router)
        assert status.target == source and status.until is not None
        go_back(place, source)
    assert place.owner(0) == source and place.contents() == before
    place.assert_clean()


@pytest.mark.parametrize(
    "point", ["move:round:committed", "move:last:committed", "move:fence:after", "move:flip:after"]
)
def test_a_way_back_that_is_interrupted(place: Place, point: str) -> None:
    source, target = place.owner(0), place.other(0)
    move_partition(place.router, 0, target, keep=HOUR)
    place.sql(target, f"UPDATE {schema(0)}.plain SET extra = coalesce(extra, 0) + 1")
    before = place.contents()
    Mover(place.config, 0, source, point).wait_killed()
    if point != "move:flip:after":
        go_back(place, source)
    eventually(lambda: not recover_moves(place.router), "it is settled")
    assert place.owner(0) == source and place.contents() == before
    place.assert_clean()
