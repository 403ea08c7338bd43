"""Moves make way for others by themselves: they rest beside them, never while writers wait, and not when alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from shardpool.bulk import foreground, pace, throttle
from shardpool.bulk.foreground import Foreground
from shardpool.bulk.pace import Pace
from shardpool.bulk.throttle import RateLimits
from shardpool.bulk.watcher import Watcher
from shardpool.config import MoveConfig
from shardpool.errors import MoveTakenOver
from shardpool.moves import abort_move, move_partition, steps
from shardpool.moves.progress import MoveProgress
from tests.moves.move_tools import Background, Place
from tests.support.waiting import eventually

#: Steps during which writers of the partition wait, or are about to.
WAITING = {"catch_up", "lock", "last", "fence", "drain", "flip", "switch_on"}
WATCHES = "FROM pg_stat_activity WHERE application_name = 'shardpool watch'"


@pytest.fixture(autouse=True)
def automatic(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.router, "config", replace(place.config, moves=MoveConfig()))


# -- who is there -----------------------------------------------------------------------------------------------------


@contextmanager
def working(place: Place, shard: str, name: str) -> Iterator[None]:
    """A session of that name that runs a long statement."""
    with place.session(shard) as cursor:
        cursor.execute(f"SET application_name = '{name}'")
        pid = cursor.connection.get_backend_pid()
        statement = Background(lambda: cursor.execute("SELECT pg_sleep(60)"))
        runs = f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND query LIKE '%pg_sleep%' AND state = 'active'"
        eventually(lambda: place.sql(shard, runs), "it runs")
        try:
            yield
        finally:
            cursor.connection.cancel()
            eventually(lambda: statement.done, "it has ended")


def looks(place: Place, shard: str) -> bool:
    """Whether others are seen, once no session has done anything lately but what the test has it do."""
    watcher = Watcher(place.router.engines, shard)
    try:
        foreground.others_work(watcher)
        found = [foreground.others_work(watcher)]
        eventually(
            lambda: found.append(foreground.others_work(watcher)) or len(found) > 30 or not found[-1], "some looks"
        )
        return found[-1]
    finally:
        watcher.close()


def test_others_are_seen_and_movers_are_not(place: Place) -> None:
    assert not looks(place, "s0")
    with working(place, "s0", "a report"):
        assert looks(place, "s0")
        assert not looks(place, "s1")
    for name in ("shardpool move 17 shop", "shardpool catalog", "shardpool watch"):
        with working(place, "s0", name):
            assert not looks(place, "s0"), name


def test_the_share_follows_the_others(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "BESIDE_OTHERS", 0.1)
    with foreground.foreground(place.router.engines, ["s0", "s1"], "test") as seen:
        eventually(lambda: seen.share == 1.0, "nobody works")
        with working(place, "s1", "a report"):
            eventually(lambda: seen.share == 0.1, "somebody works")
        eventually(lambda: seen.share == 1.0, "nobody works any more")
    for shard in ("s0", "s1"):
        eventually(lambda shard=shard: not place.sql(shard, f"SELECT 1 {WATCHES}"), "its sessions are gone")


def test_one_look_proves_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "BESIDE_OTHERS", 0.1)
    seen, shares = Foreground(), []
    for others in (True, False, True, True, True, False):
        seen.saw(others)
        shares.append(seen.share)
    assert shares == [1.0, 1.0, 1.0, 0.1, 0.1, 1.0]


@pytest.mark.parametrize("limits", [RateLimits(share="auto"), RateLimits(max_latency=60.0)], ids=["share", "latency"])
def test_a_server_that_hangs_holds_nobody(place: Place, monkeypatch: pytest.MonkeyPatch, limits: RateLimits) -> None:
    """Nor is it taken for idle once the connection is cut."""
    asked, answered, unanswered = list[str](), list[str](), list[int]()
    ask = Watcher.ask

    def noted(watcher: Watcher, query: str) -> tuple[Any, ...]:
        asked.append(query)
        row = ask(watcher, query)
        answered.append(query)
        return row

    def stuck() -> bool:
        unanswered.append(len(asked) if len(asked) > len(answered) else 0)
        return len(unanswered) > 9 and len(set(unanswered[-9:])) == 1 and unanswered[-1] > 0

    monkeypatch.setattr(Watcher, "ask", noted)
    monkeypatch.setattr(throttle, "INTERVAL", 0.01)
    query = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'shardpool watch' AND datname = current_database()"
    )
    found: list[int] = []
    with throttle.watching(place.router.engines, ["s0"], limits, "test"):
        eventually(lambda: found.extend(pid for (pid,) in place.sql("s0", query)) or found, "it looks")
        try:
            os.kill(found[0], signal.SIGSTOP)
        except (PermissionError, ProcessLookupError):
            pytest.skip("the server's processes are not on this machine")
        eventually(stuck, "a look hangs")
    try:
        assert not {"shardpool-foreground", "shardpool-throttle"} & {thread.name for thread in threading.enumerate()}
    finally:
        os.kill(found[0], signal.SIGCONT)


# -- resting ----------------------------------------------------------------------------------------------------------


def rests_of_a_move(place: Place, monkeypatch: pytest.MonkeyPatch, share: float) -> set[str]:
    """Move a partition, and return the steps in which it rested."""
    step, rested = [""], set[str]()

    def tell(progress: MoveProgress) -> None:
        step[0] = progress.step

    def sleep(seconds: float) -> None:
        assert 0 < seconds <= pace.LONGEST_SLEEP
        rested.add(step[0])

    clock = SimpleNamespace(monotonic=pace.time.monotonic, sleep=sleep)
    with monkeypatch.context() as patch:
        patch.setattr(pace, "time", clock)
        patch.setattr(pace, "SLICE", 0.0)
        patch.setattr(Foreground, "share", share)
        report = move_partition(place.router, 0, place.other(0), mode="trigger", progress=tell)
    assert 0 < report.pause < place.config.moves.cutover_timeout
    place.assert_clean()
    return rested


def test_a_move_rests_beside_others_but_never_while_writers_wait(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    rested = rests_of_a_move(place, monkeypatch, share=0.5)
    assert {"copy", "finish", "verify"} <= rested
    assert not rested & WAITING


def test_a_move_that_is_alone_does_not_rest(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rests_of_a_move(place, monkeypatch, share=1.0) == set()


def test_a_rest_while_writers_wait_would_be_seen(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted faults: a step of the cutover that rests, and a pace that knows no rest."""
    planted = {
        mode: tuple(replace(step, rests=step.rests or step.name == "last") for step in found)
        for mode, found in steps.STEPS.items()
    }
    with monkeypatch.context() as patch:
        patch.setattr("shardpool.moves.runner.STEPS", planted)
        assert rests_of_a_move(place, patch, share=0.5) & WAITING == {"last"}
    monkeypatch.setattr(Pace, "rest", lambda *_: False)
    assert rests_of_a_move(place, monkeypatch, share=0.5) == set()


def test_a_resting_move_hears_that_it_is_taken_over(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks now and then, and does not wait for the end of its rest."""
    monkeypatch.setattr(foreground, "BESIDE_OTHERS", 0.001)
    monkeypatch.setattr(pace, "LONGEST_REST", 600.0)
    monkeypatch.setattr(pace, "LONGEST_SLEEP", 0.05)
    step = [""]
    with working(place, place.owner(0), "a report"):
        moving = Background(
            lambda: move_partition(
                place.router, 0, place.other(0), mode="trigger", progress=lambda it: step.append(it.step)
            )
        )
        eventually(lambda: step.count(step[-1]) > 5, "it rests")
        abort_move(place.router, 0)
        with pytest.raises(MoveTakenOver):
            moving.wait()
    place.assert_clean()


# -- the arithmetic ---------------------------------------------------------------------------------------------------


def test_what_was_worked_is_rested_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long work has a long rest, in sleeps that can be interrupted; all threads have it at the same time."""
    now, share, slept = [100.0], [0.2], list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    worked = Pace(lambda: share[0])

    def rest(seconds: float) -> list[float]:
        now[0] += seconds
        slept.clear()
        while worked.rest(0):
            pass
        return list(slept)

    assert rest(1.0) == pytest.approx([2.0, 2.0])
    assert rest(0.0) == []  # another thread, a moment later
    assert rest(100.0) == pytest.approx([2.0] * 15)  # not all of that was work
    share[0] = 1.0
    assert rest(5.0) == []
    share[0] = 0.2  # it turns out that somebody was there: the last moments are made up for
    assert sum(rest(0.1)) == pytest.approx((pace.UNHEARD + 0.1) * 4)
    now[0] += pace.SLICE / 2
    assert not worked.rest() and sum(rest(0.0)) == pytest.approx(pace.SLICE / 2 * 4)
