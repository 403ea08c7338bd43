"""The moves of a plan on other executors than threads: processes, which may be killed, and a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any

import pytest

from shardpool import Config, Router, faults
from shardpool.bulk import crew, executors
from shardpool.errors import JobFailed, JobRefused, MoveError, MoveInProgress, PreflightFailed
from shardpool.moves import (
    MoveProgress,
    PlannedMove,
    RebalancePlan,
    apply_rebalance,
    move_partition,
    move_status,
    plan_rebalance,
    rebalance,
    recover_moves,
    resume_rebalance,
)
from shardpool.moves.locks import move_locked
from shardpool.moves.runs import Runs
from tests.moves.move_tools import Background, Gates, Place
from tests.support.waiting import eventually

KILLED_IN_COPY = "move:copy:inside:kill9"
#: Bytes per second: a copy takes seconds, so that something can happen meanwhile.
SLOW = 1500


@pytest.fixture
def plan(place: Place) -> RebalancePlan:
    """Two of four partitions on the first shard are to move to the second."""
    for partition in range(4):
        if place.owner(partition) != "s0":
            move_partition(place.router, partition, "s0")
    return plan_rebalance(place.router, by="count")


def moves_since(place: Place, first: int) -> int:
    ((count,),) = place.catalog(f"SELECT count(*) FROM shardpool_catalog.move WHERE id > {first}")
    return int(count)


def last_move(place: Place) -> int:
    ((last,),) = place.catalog("SELECT max(id) FROM shardpool_catalog.move")
    return int(last)


def assert_moved(place: Place, plan: RebalancePlan, before: dict[int, str]) -> None:
    assert {place.owner(it.partition) for it in plan.moves} == {"s1"}
    assert place.contents() == before and Runs(place.router.catalog).unfinished() is None
    place.assert_clean()


def slow(config: Config) -> Router:
    """A router of which copies, also those of its workers, take long."""
    return Router(replace(config, moves=replace(config.moves, max_rate=SLOW)), listen=False)


# -- everywhere -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["processes", pytest.param("auto", marks=pytest.mark.slow)])
def test_other_processes_move(
    place: Place, plan: RebalancePlan, gates: Gates, monkeypatch: pytest.MonkeyPatch, executor: str
) -> None:
    monkeypatch.setattr(executors, "cores", lambda: 3)
    monkeypatch.setattr(executors, "SHORT", 0.0)
    before, told = place.contents(), list[MoveProgress]()
    with slow(place.config) as router:
        reports = apply_rebalance(router, plan, parallel=2, per_shard=2, executor=executor, progress=told.append)
    assert {it.partition for it in reports} == {it.partition for it in plan.moves}
    assert all(it.pause > 0 and it.rows > 0 and dict(it.steps)["verify"] > 0 for it in reports)
    steps = {(it.partition, it.step) for it in told}
    assert steps >= {(it.partition, step) for it in plan.moves for step in ("copy", "done")}
    assert any(it.step == "copy" and it.bytes > 0 and it.seconds > 0 for it in told)
    if executor == "processes":
        assert "move:copy:before" not in gates.seen, "it was done in this process"
    assert_moved(place, plan, before)


def test_an_executor_that_is_given(place: Place, plan: RebalancePlan) -> None:
    before = place.contents()
    with ThreadPoolExecutor(2) as mine:
        assert len(apply_rebalance(place.router, plan, parallel=2, per_shard=2, executor=mine)) == 2
        assert mine.submit(int).result() == 0, "it was left open"
    assert_moved(place, plan, before)


def test_no_such_executor(place: Place, plan: RebalancePlan) -> None:
    with pytest.raises(JobRefused, match="none of threads, processes, auto and dask://host:port"):
        apply_rebalance(place.router, plan, executor="fibres")


def test_what_a_worker_refuses(place: Place, plan: RebalancePlan) -> None:
    """Errors arrive as they were raised there, with what they carry; and of two movers there is one."""
    first = plan.moves[0]
    wrong = replace(plan, moves=(PlannedMove(first.partition, "s7", "s8", first.bytes, first.rows),))
    with pytest.raises(PreflightFailed, match="make a new plan") as caught:
        apply_rebalance(place.router, wrong, executor="processes")
    assert len(caught.value.failures) == 1
    with move_locked(place.router, first.partition), pytest.raises(MoveInProgress, match="by another process"):
        apply_rebalance(place.router, plan, executor="processes")
    assert place.owner(first.partition) == "s0"
    recover_moves(place.router)
    place.assert_clean()


# -- what dies --------------------------------------------------------------------------------------------------------


def test_a_killed_process_is_made_up_for(place: Place, plan: RebalancePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one goes on with what it has copied, in the same run."""
    before, first, opened = place.contents(), last_move(place), list[str]()
    monkeypatch.setenv("SHARDPOOL_FAULT", KILLED_IN_COPY)

    def harmless_the_second_time(wanted: str, workers: int) -> AbstractContextManager[Executor]:
        opened.append(wanted)
        if len(opened) == 2:
            monkeypatch.delenv("SHARDPOOL_FAULT")
        return executors.open_executor(wanted, workers)

    monkeypatch.setattr(rebalance, "open_executor", harmless_the_second_time)
    reports = apply_rebalance(place.router, plan, parallel=2, per_shard=2, executor="processes")
    assert opened == ["processes"] * 2
    assert {it.partition for it in reports} == {it.partition for it in plan.moves}
    assert_moved(place, plan, before)
    # Which of the two had come so far when the other was killed, nobody knows.
    assert 2 <= moves_since(place, first) <= 3


@pytest.mark.slow
def test_processes_that_die_past_the_commit_point(
    place: Place, plan: RebalancePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one has left is completed before the next dies."""
    before, first = place.contents(), last_move(place)
    monkeypatch.setenv("SHARDPOOL_FAULT", "move:flip:after:kill9")
    assert len(plan.moves) < rebalance.ROUNDS
    assert apply_rebalance(place.router, plan, executor="processes") == []
    assert moves_since(place, first) == 2
    assert_moved(place, plan, before)


@pytest.mark.slow
def test_processes_that_die_again_and_again(place: Place, plan: RebalancePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    before, first = place.contents(), last_move(place)
    monkeypatch.setenv("SHARDPOOL_FAULT", KILLED_IN_COPY)
    with pytest.raises(MoveError, match=r"processes that moved partitions died .*rebalance --resume") as caught:
        apply_rebalance(place.router, plan, executor="processes")
    assert type(caught.value) is MoveError
    monkeypatch.delenv("SHARDPOOL_FAULT")
    assert resume_rebalance(place.router, executor="processes") is not None
    assert moves_since(place, first) == 2, "each was gone on with, not begun again"
    assert_moved(place, plan, before)


def test_a_killed_plan_takes_its_processes_along(place: Place, plan: RebalancePlan) -> None:
    before, first = place.contents(), last_move(place)
    context = multiprocessing.get_context("forkserver")
    coordinator = context.Process(target=_apply_slowly, args=(place.config, plan))
    coordinator.start()
    try:
        eventually(lambda: any(it.step == "copy" for it in move_status(place.router)), "one copies", 60)
        (moving,) = move_status(place.router)
    finally:
        coordinator.kill()
        coordinator.join()

    def resumed() -> bool:
        with suppress(MoveInProgress):  # for as long as its worker takes to notice
            return resume_rebalance(place.router, executor="processes") is not None
        return False

    eventually(resumed, "the plan is done", 60)
    assert moving.move > first and moves_since(place, first) == 2, "it was gone on with, not begun again"
    assert_moved(place, plan, before)


def _apply_slowly(config: Config, plan: RebalancePlan) -> None:
    with slow(config) as router:
        apply_rebalance(router, plan, executor="processes")


def test_an_interrupt_undoes_what_processes_do(place: Place, plan: RebalancePlan) -> None:
    before = place.contents()

    def interrupt(state: MoveProgress) -> None:
        if state.step == "copy":
            raise KeyboardInterrupt

    with slow(place.config) as router, pytest.raises(KeyboardInterrupt):
        apply_rebalance(router, plan, parallel=2, per_shard=2, executor="processes", progress=interrupt)
    assert {place.owner(it) for it in range(4)} == {"s0"} and place.contents() == before
    place.assert_clean()


def test_what_had_not_begun_when_it_was_interrupted_is_undone(
    place: Place, plan: RebalancePlan, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move that registers itself after the interrupt."""
    before, first, wait = place.contents(), last_move(place), crew.wait
    gates.close("move:register:before", "move:register:after")

    def interrupted(*_: object, **__: object) -> None:
        gates.wait_for("move:register:before")
        assert moves_since(place, first) == 0
        monkeypatch.setattr(crew, "wait", wait)
        raise KeyboardInterrupt

    def let_go() -> None:
        eventually(lambda: crew.wait is wait, "the interrupt")
        gates.open("move:register:before")
        gates.wait_for("move:register:after")
        eventually(lambda: not move_status(place.router), "it is undone")
        gates.open_all()

    monkeypatch.setattr(crew, "wait", interrupted)
    letting_go = Background(let_go)
    with pytest.raises(KeyboardInterrupt):
        apply_rebalance(place.router, plan)
    letting_go.wait()
    assert moves_since(place, first) == 1 and place.contents() == before
    place.assert_clean()


class Lost(Executor):
    """Its workers are gone."""

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        return Future()


def test_workers_of_which_nothing_is_heard(place: Place, plan: RebalancePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "SILENCE", 1.0)
    with pytest.raises(JobFailed, match="nothing was heard of any worker for 1 s"):
        apply_rebalance(place.router, plan, executor=Lost())


@pytest.mark.slow
def test_a_move_that_takes_long_is_heard_of(place: Place, plan: RebalancePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    before = place.contents()
    monkeypatch.setattr(crew, "SILENCE", 10.0)
    monkeypatch.setattr(sys.modules[__name__], "SLOW", 40)
    with slow(place.config) as router:
        for report in apply_rebalance(router, plan, executor="processes"):
            assert report.seconds > 10
    assert_moved(place, plan, before)


# -- Dask -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with two worker processes."""
    distributed = pytest.importorskip("distributed")
    with (
        warnings.catch_warnings(),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
    ):
        yield cluster.scheduler_address.removeprefix("tcp://")


@pytest.mark.filterwarnings("default")
def test_a_dask_worker_that_dies_while_it_copies(place: Place, plan: RebalancePlan, scheduler: str) -> None:
    """Dask gives the move to another worker by itself, which goes on with it."""
    from distributed import Client

    before, first = place.contents(), last_move(place)
    with Client(f"tcp://{scheduler}", set_as_default=False) as client:
        workers = client.run(os.getpid)
        client.run(_die_in_the_copy, workers=[min(workers)])
    reports = apply_rebalance(place.router, plan, parallel=2, per_shard=2, executor=f"dask://{scheduler}")
    assert {it.partition for it in reports} == {it.partition for it in plan.moves}
    with Client(f"tcp://{scheduler}", set_as_default=False) as client:
        eventually(lambda: len(client.run(os.getpid)) == 2, "there is another worker", 60)
        assert len(set(workers.values()) & set(client.run(os.getpid).values())) == 1
    assert moves_since(place, first) == 2, "it was gone on with, not begun again"
    assert_moved(place, plan, before)


def _die_in_the_copy() -> None:
    faults.armed = KILLED_IN_COPY


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_an_interrupted_run_on_dask(place: Place, plan: RebalancePlan, scheduler: str) -> None:
    before = place.contents()

    def interrupt(state: MoveProgress) -> None:
        if state.step == "copy":
            raise KeyboardInterrupt

    with slow(place.config) as router, pytest.raises(KeyboardInterrupt):
        apply_rebalance(router, plan, parallel=2, per_shard=2, executor=f"dask://{scheduler}", progress=interrupt)
    assert {place.owner(it) for it in range(4)} == {"s0"} and place.contents() == before
    place.assert_clean()
