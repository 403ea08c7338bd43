"""Moves whose process, or whose servers, die or freeze at each step: one owner, all rows, nothing left over.

A new step is covered by these tests the day it is added to `STEPS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from shardpool.errors import (
    CatalogUnavailable,
    MoveError,
    MoveInProgress,
    OwnershipAmbiguous,
    PreflightFailed,
    ShardUnavailable,
)
from shardpool.local import LocalCluster
from shardpool.moves import (
    Recovered,
    apply_rebalance,
    move_partition,
    move_status,
    plan_rebalance,
    recover_moves,
    runner,
    servers,
)
from shardpool.moves.journal import Journal
from shardpool.moves.record import Mode
from shardpool.moves.steps import is_committed, names_of
from tests.moves.conftest import gates, place, shop_config
from tests.moves.move_tools import Background, Gates, Mover, Place, schema
from tests.support.waiting import eventually

__all__ = ["gates", "place"]  # fixtures

ROUNDS = [f"move:{name}:{when}" for name in ("round", "last") for when in ("inside", "committed")]
#: Points inside steps.
INSIDE = {
    "block": [],
    "trigger": ["move:capture:inside", *ROUNDS],
    "logical": ["move:capture:inside", *ROUNDS],
}


def points(mode: Mode) -> list[str]:
    """Every point at which a mover of this mode may end."""
    found = ["move:register:before", "move:register:after", "move:copy:inside", "move:flip:inside", *INSIDE[mode]]
    return found + [f"move:{name}:{when}" for name in names_of(mode) for when in ("before", "after")]


BY_HAND = pytest.mark.slow
#: What a replication slot adds to, in the default run.
SLOT_SLICE = [
    f"move:{it}" for it in ("capture:inside", "capture:after", "round:committed", "fence:after", "flip:after")
]


def in_slice(mode: Mode, at: int, point: str) -> bool:
    return (mode == "trigger" and at % 2 == 0) or (mode == "logical" and point in SLOT_SLICE)


EVERYWHERE = [
    pytest.param(mode, it, marks=() if in_slice(mode, at, it) else BY_HAND)
    for mode in INSIDE
    for at, it in enumerate(points(mode))
]
POINTS = points("trigger")  # and of "logical"


def committed(point: str) -> bool:
    _, step, when = point.split(":")
    return is_committed("trigger", step) or (step, when) == ("flip", "after")


def recover_all(place: Place, **options: float) -> None:
    """Recover until nothing is unfinished: a server needs a moment to see that a process is gone."""

    def recovered() -> bool:
        found = recover_moves(place.router, **options)
        assert all(it.outcome != "unsettled" for it in found), found
        return not move_status(place.router)

    eventually(recovered, "all moves are settled")


def recover_dead(place: Place) -> Recovered:
    """Recover the only unfinished move, once its process is known to be gone."""
    found: list[Recovered] = []

    def not_running() -> bool:
        found[:] = recover_moves(place.router)
        return found[0].outcome != "running"

    eventually(not_running, "the process of the move is gone")
    return found[0]


@pytest.mark.parametrize(("mode", "point"), EVERYWHERE)
def test_a_mover_that_is_killed(place: Place, mode: Mode, point: str) -> None:
    source, target, before = place.owner(0), place.other(0), place.contents()
    Mover(place.config, 0, target, point, mode=mode).wait_killed()
    recover_all(place)
    assert place.owner(0) == (target if committed(point) else source)
    assert place.contents() == before
    place.assert_clean()


GONE_ON_WITH: dict[Mode, int] = {"trigger": 4, "logical": 12}  # one of so many in the default run


@pytest.mark.parametrize(
    ("mode", "point"),
    [
        pytest.param(mode, it, marks=BY_HAND if at % every else ())
        for mode, every in GONE_ON_WITH.items()
        for at, it in enumerate(POINTS)
    ],
)
def test_a_move_that_is_gone_on_with(place: Place, mode: Mode, point: str) -> None:
    """The same call again finishes what was wanted, and does not copy again what it need not."""
    source, target, before = place.owner(0), place.other(0), place.contents()
    Mover(place.config, 0, target, point, mode=mode).wait_killed()
    key = next(key for key in range(60) if place.router.partition_of(key).id == 0)
    if (
        not committed(point)
        and point not in ("move:fence:after", "move:flip:inside", "move:flip:before")
        and (not point.startswith("move:drain"))
    ):
        # Writers go on while nobody works on the move.
        place.sql(source, f"UPDATE shop_p0000.plain SET extra = extra + 1 WHERE customer_id = {key}")
        before = place.contents()
    (record,) = Journal(place.router.catalog).running(0) or (None,)

    def finished() -> bool:
        try:
            if place.owner(0) != target or move_status(place.router):
                move_partition(place.router, 0, target, mode=mode)
        except (MoveInProgress, PreflightFailed) as error:
            return "already" in str(error)
        return True

    eventually(finished, "the process of the move is gone, and the move is complete")
    assert place.owner(0) == target
    ((state,),) = (
        place.catalog(f"SELECT state FROM shardpool_catalog.move WHERE id = {record.id}") if record else [("done",)]
    )
    resumable = point.split(":")[1] not in ("register", "create", "capture")
    assert state == ("done" if resumable or record is None else "aborted"), point
    assert place.contents() == before
    place.assert_clean()


FREEZES = [
    *("move:create:before", "move:copy:inside", "move:fence:before", "move:fence:after", "move:flip:before"),
    *("move:flip:inside", "move:flip:after", "move:switch_on:after"),
]
FREEZES_ONLINE = ["move:capture:after", "move:round:inside", "move:round:committed", "move:last:before"]


@pytest.mark.parametrize(
    ("mode", "point"),
    [
        *(pytest.param("block", it, marks=BY_HAND) for it in FREEZES),
        *(("trigger", it) for it in (*FREEZES, *FREEZES_ONLINE)),
        *(pytest.param("trigger", it, marks=BY_HAND) for it in POINTS[2:-1] if it not in (*FREEZES, *FREEZES_ONLINE)),
        *(("logical", it) for it in FREEZES_ONLINE[:2]),
        *(pytest.param("logical", it, marks=BY_HAND) for it in POINTS[2:-1] if it not in FREEZES_ONLINE[:2]),
    ],
)
def test_a_mover_that_is_frozen_and_wakes(place: Place, mode: Mode, point: str) -> None:
    source, target, before = place.owner(0), place.other(0), place.contents()
    mover = Mover(place.config, 0, target, point, kill=False, mode=mode)
    mover.wait_frozen()
    (busy,) = recover_moves(place.router)
    assert busy.outcome == "running"
    recover_all(place, frozen_after=0.0)
    assert place.owner(0) == (target if committed(point) else source)
    place.assert_clean()
    # Others go on meanwhile: the partition moves away, and back.
    for _ in range(2):
        move_partition(place.router, 0, place.other(0))
    settled = place.owner(0)
    assert mover.thaw() == 3  # MoveTakenOver
    assert place.owner(0) == settled
    assert place.contents() == before
    place.assert_clean()


def test_the_server_frees_writers_of_a_frozen_mover(
    place: Place, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if nobody recovers it."""
    monkeypatch.setitem(servers.SETTINGS, "idle_in_transaction_session_timeout", "200ms")
    source = place.owner(0)
    gates.close("move:verify:before")
    moving = Background(lambda: move_partition(place.router, 0, place.other(0), mode="block"))
    gates.wait_for("move:verify:before")
    place.sql(source, "UPDATE shop_p0000.plain SET extra = 5")  # waits no longer than that
    gates.open_all()
    with pytest.raises(ShardUnavailable) as caught:
        moving.wait()
    assert caught.value.shard == source
    place.assert_clean()
    assert place.sql(source, "SELECT DISTINCT extra FROM shop_p0000.plain") == [(5,)]


@pytest.mark.parametrize("point", ["move:fence:after", "move:flip:after"])
def test_a_rebalance_that_is_killed_is_called_again(place: Place, point: str) -> None:
    before = place.contents()
    for partition in (0, 1, 2, 3):
        if place.owner(partition) != "s0":
            move_partition(place.router, partition, "s0")
    plan = plan_rebalance(place.router, by="count")
    assert len(plan.moves) == 2
    first, second = plan.moves
    move_partition(place.router, first.partition, first.target)
    Mover(place.config, second.partition, second.target, point).wait_killed()
    reports = apply_rebalance(place.router, plan)
    assert [it.partition for it in reports] == ([] if committed(point) else [second.partition])
    assert apply_rebalance(place.router, plan) == []
    assert plan_rebalance(place.router, by="count").moves == ()
    assert place.contents() == before
    place.assert_clean()


# -- servers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    # What is not flushed by a commit is lost with the process: a move must not rely on the servers' defaults.
    with LocalCluster(shards=3, settings={"synchronous_commit": "off", "wal_writer_delay": "10s"}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def fragile(cluster: LocalCluster) -> Iterator[Place]:
    """Three servers; the first has the catalog, and no part in the moves."""
    place = Place(shop_config([cluster.url(name) for name in cluster.names], partitions=3))
    try:
        place.fill(customers=20)
        for shard in place.config.shards:
            place.sql(shard, "CHECKPOINT")
        yield place
    finally:
        place.close()


def crash(cluster: LocalCluster, name: str) -> None:
    cluster.kill(name)
    cluster.start(name)


PARTIES = ("source", "target", "catalog")
CRASH_SLICE = ("copy:inside", "round:inside", "last:committed", "fence:after", "flip:after")
CRASHES = [("trigger", point, who) for point in CRASH_SLICE for who in PARTIES]
CRASHES += [("logical", point, "source") for point in CRASH_SLICE[:3]]
CRASHES += [
    pytest.param(mode, point.removeprefix("move:"), who, marks=BY_HAND)
    for mode in GONE_ON_WITH
    for point in POINTS[2:]
    for who in PARTIES
    if (mode, point.removeprefix("move:"), who) not in CRASHES
]


@pytest.mark.parametrize(("mode", "point", "who"), CRASHES)
def test_a_server_that_crashes(
    cluster: LocalCluster, fragile: Place, gates: Gates, mode: Mode, point: str, who: str
) -> None:
    """It is back when the move notices: the move is undone, or completed, before its error is told."""
    point = f"move:{point}"
    source = fragile.owner(1)
    target = {"s1": "s2", "s2": "s1"}[source]
    before = fragile.contents()
    gates.close(point)
    moving = Background(lambda: move_partition(fragile.router, 1, target, mode=mode))
    gates.wait_for(point)
    crash(cluster, {"source": source, "target": target, "catalog": "s0"}[who])
    gates.open_all()
    with suppress(ShardUnavailable, CatalogUnavailable, MoveError):
        moving.wait()
    recover_all(fragile)
    assert fragile.owner(1) in ((target,) if committed(point) else (source, target))
    assert fragile.contents() == before
    fragile.assert_clean()
    if fragile.owner(1) != target:
        move_partition(fragile.router, 1, target)
        assert fragile.contents() == before


@pytest.mark.parametrize("point", ["move:fence:after", "move:flip:after"])
@pytest.mark.parametrize("who", ["source", "target", "catalog"])
def test_a_server_that_stays_away(
    cluster: LocalCluster, fragile: Place, gates: Gates, monkeypatch: pytest.MonkeyPatch, point: str, who: str
) -> None:
    """What can be settled without it is; the rest when it is back."""
    monkeypatch.setattr(runner, "SETTLE_PATIENCE", 0.1)
    source = fragile.owner(1)
    target = {"s1": "s2", "s2": "s1"}[source]
    before = fragile.contents()
    gates.close(point)
    moving = Background(lambda: move_partition(fragile.router, 1, target))
    gates.wait_for(point)
    name = {"source": source, "target": target, "catalog": "s0"}[who]
    cluster.kill(name)
    gates.open_all()
    try:
        moving.wait()
    except (ShardUnavailable, CatalogUnavailable, MoveError) as error:
        told: Exception | None = error
    else:
        told = None
    needed = who == "catalog" or (point, who) in (("move:fence:after", "source"), ("move:flip:after", "target"))
    if needed:
        assert told is not None and any("recover_moves" in note for note in told.__notes__)
    elif point == "move:flip:after":
        assert told is None  # complete but for what is left on the source
    cluster.start(name)
    recover_all(fragile)
    assert fragile.owner(1) == (target if committed(point) else source)
    assert fragile.contents() == before
    fragile.assert_clean()


# -- what recovery refuses, and what it leaves ------------------------------------------------------------------------


def test_two_schemas_of_one_partition(place: Place) -> None:
    source, target = place.owner(0), place.other(0)
    Mover(place.config, 0, target, "move:copy:inside").wait_killed()
    place.sql(target, f"CREATE SCHEMA {schema(0)}")
    unsettled = recover_dead(place)
    assert unsettled.outcome == "unsettled"
    for word in (source, target, schema(0), "Compare"):
        assert word in unsettled.reason
    with pytest.raises(MoveError):
        move_partition(place.router, 0, target)
    place.sql(target, f"DROP SCHEMA {schema(0)}")
    recover_all(place)
    place.assert_clean()


def test_a_schema_that_is_gone(place: Place) -> None:
    source, target = place.owner(0), place.other(0)
    Mover(place.config, 0, target, "move:fence:before").wait_killed()
    place.sql(source, f"ALTER SCHEMA {schema(0)} RENAME TO hidden")
    unsettled = recover_dead(place)
    assert "neither" in unsettled.reason
    assert OwnershipAmbiguous.retryable is False
    place.sql(source, f"ALTER SCHEMA hidden RENAME TO {schema(0)}")
    recover_all(place)
    place.assert_clean()


def test_a_schema_that_cannot_be_dropped_yet(place: Place, gates: Gates) -> None:
    source = place.owner(0)
    gates.close("move:release:before")
    moving = Background(lambda: move_partition(place.router, 0, place.other(0)))
    gates.wait_for("move:release:before")
    ((moved,),) = place.sql(source, "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%moved%'")
    with place.session(source, isolation="READ COMMITTED") as reader:
        reader.execute(f"SELECT count(*) FROM {moved}.plain")
        gates.open_all()
        leftovers = moving.wait().leftovers
        capture = moved.replace("moved", "capture")  # its triggers are on the tables
        assert {(it.shard, it.schema) for it in leftovers} == {(source, moved), (source, capture)}
        assert set(place.catalog("SELECT name FROM shardpool_catalog.cleanup")) == {(moved,), (capture,)}
    recover_moves(place.router)
    place.assert_clean()
