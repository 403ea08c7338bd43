"""Running a move: each step is written down, then run. Whatever goes wrong, the move is settled before it is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg2
from sqlalchemy.exc import DBAPIError

from shardpool import faults
from shardpool.bulk.throttle import watching
from shardpool.errors import CutoverTimeout, MoveError, MoveTakenOver, ShardpoolError, ShardUnavailable
from shardpool.moves.cutover import LOCKED, CutoverRetry
from shardpool.moves.journal import Leftover
from shardpool.moves.move import Move, Pause
from shardpool.moves.progress import Meter
from shardpool.moves.record import MoveRecord
from shardpool.moves.servers import Servers
from shardpool.moves.settle import settle
from shardpool.moves.steps import LOCK, STEPS, Step, first_of, retry_of
from shardpool.router import Router

log = logging.getLogger(__name__)

#: Seconds between two signs of life in the catalog.
HEARTBEAT = 1.0
#: So long, in seconds, a failed move waits for servers that it needs to be settled.
SETTLE_PATIENCE = 10.0


@dataclass(frozen=True)
class MoveReport:
    """A move that was completed. `pause` is how long writers of the partition waited, `seconds` the whole; 0 if another
    process did that part. `steps` are (name, seconds since the beginning). `leftovers` are schemas that could not be
    dropped yet; `recover_moves` tries again. `mode` was taken for `reason`. A change of partitions has another `kind`,
    and `partitions` are the new ones.
    """

    move: int
    partition: int
    source: str
    target: str
    rows: int
    bytes: int
    seconds: float
    pause: float
    steps: tuple[tuple[str, float], ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    mode: str = "block"
    reason: str = ""
    kind: str = "move"
    partitions: tuple[int, ...] = ()


def run_move(router: Router, record: MoveRecord, meter: Meter, first: str | None = None) -> MoveReport:
    """Run a registered move to its end, from step *first* or its beginning. The caller holds the move's lock.

    If it fails, or is interrupted, it is settled: undone, or completed if it was past its commit point. Then the error
    is raised, unless the move is complete; only `KeyboardInterrupt` is raised even so.
    """
    move = Move(router, record, Servers(router, record), meter)
    try:
        with _heartbeat(move), watching(router.engines, record.shards, router.config.moves, str(record)) as throttle:
            move.throttle = throttle
            _run_steps(move, first or first_of(record.mode))
        return _report(move, move.pause)
    except MoveTakenOver:
        raise
    except BaseException as error:
        translated = _translate(move, error)
        move.servers.close()  # first of all, for its locks
        settled = _settle_after(move, translated)
        if settled is None or not isinstance(error, Exception):
            raise translated from translated.__cause__
        return _report(settled, Pause(move.pause.began, settled.pause.ended or move.pause.ended))
    finally:
        move.servers.close()


def _run_steps(move: Move, first: str) -> None:
    steps = STEPS[move.record.mode]
    names = [step.name for step in steps]
    position, retry = names.index(first), CutoverRetry(move)
    while position < len(steps):
        try:
            _run_step(move, steps[position])
            position += 1
        except (CutoverTimeout, *LOCKED) as error:
            if not retry.step_back(steps[position].name, error):
                raise
            position = names.index(retry_of(move.record.mode))


def _run_step(move: Move, step: Step) -> None:
    move.journal.enter(move.record, step.name, moving=True if step.name == LOCK else None)
    move.meter.enter(step.name)
    faults.fault_point(f"move:{step.name}:before")
    step.run(move)
    faults.fault_point(f"move:{step.name}:after")
    if step.rests:
        move.rest()
    else:
        move.throttle.pace.begin()


def _settle_after(move: Move, error: BaseException) -> Move | None:
    """Settle a move that failed. Return it if it was completed, None if it was undone; raise *error*, with a note, if
    neither was possible now."""
    log.info("%s failed, it is being settled: %s", move.record, error)
    try:
        outcome, settled = settle(move.router, move.record, move.meter, SETTLE_PATIENCE)
    except MoveTakenOver as taken:
        raise taken from error
    except (ShardpoolError, psycopg2.Error, DBAPIError) as second:
        error.add_note(f"{move.record} is neither undone nor completed yet; recover_moves() does that. {second}")
        raise error from error.__cause__
    error.add_note(f"{move.record} was {outcome}")
    return settled if outcome == "completed" else None


def _translate(move: Move, error: BaseException) -> BaseException:
    """Return our error for a driver's, which becomes its cause; ours and interrupts are returned as they are."""
    if not isinstance(error, psycopg2.Error | DBAPIError):
        return error
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    lost = move.servers.lost()
    kind = CutoverTimeout if isinstance(error, LOCKED) else MoveError
    told = (
        ShardUnavailable(lost[0], reason) if lost else kind(f"{move.record}: step {move.meter.step} failed: {reason}")
    )
    told.__cause__ = error
    return told


def _report(move: Move, pause: Pause) -> MoveReport:
    record, meter = move.record, move.meter
    return MoveReport(
        move=record.id,
        partition=record.partition,
        source=record.source,
        target=record.target,
        rows=meter.rows,
        bytes=meter.bytes,
        seconds=meter.seconds,
        pause=pause.seconds,
        steps=tuple(meter.started.items()),
        leftovers=tuple(move.leftovers),
        mode=record.mode,
        reason=str(record.detail.get("reason", "")),
        kind=record.kind,
        partitions=tuple(record.bounds),
    )


@contextmanager
def _heartbeat(move: Move) -> Iterator[None]:
    """Give the catalog signs of life while the block runs."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            try:
                move.journal.beat(move.record, move.meter.facts())
            except (ShardpoolError, DBAPIError) as error:
                log.warning("%s: no sign of life in the catalog: %s", move.record, error)

    thread = threading.Thread(target=beat, name="shardpool-move-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
