"""The steps of a move. Read them from top to bottom: this is the protocol.

A step of a change of partitions does the same for each of its sources, or targets.

The runner writes the name of each step into the catalog before it runs it. Recovery reads the name and knows what may
have happened: before the commit point it undoes all steps from that one backwards, after it it runs the rest. So each
`undo` must be right even if its step did not begin, and each `run` after the commit point even if it was completed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shardpool.moves.capture import capture, drop_capture
from shardpool.moves.copy import copy
from shardpool.moves.create import create, drop_incoming, finish
from shardpool.moves.fence import drain, fence, take_fence_down
from shardpool.moves.lock import lock, lock_briefly
from shardpool.moves.move import Move, each_source, each_target
from shardpool.moves.online import (
    catch_up,
    copy_online,
    create_online,
    finish_online,
    last_round,
    validate,
    verify_ahead,
)
from shardpool.moves.record import Mode
from shardpool.moves.reverse import undo_notes
from shardpool.moves.switch import end, flip, release, switch_on
from shardpool.moves.verify import verify


def nothing(move: Move) -> None:
    """What a transaction that is rolled back leaves to undo."""


@dataclass(frozen=True)
class Step:
    """One step. `describe` says what it does; `commit_point` marks the one after which nothing is undone. One that
    `rests` is work that others have a right to rest from; the rest of them wait themselves, or make others wait."""

    name: str
    run: Callable[[Move], None]
    undo: Callable[[Move], None]
    describe: str
    commit_point: bool = False
    rests: bool = False


_CREATE = "create the tables on the target, in a schema that is not in use"
_LOCK = "make writers of the partition wait"
_FINISH = "create foreign keys, triggers and indexes on the target"
_FENCE = Step(
    "fence", each_source(fence), each_source(take_fence_down), "rename the schema on the source: statements fail there"
)
_DRAIN = Step("drain", each_source(drain), nothing, "wait for transactions that have read on the source")
_FLIP = Step("flip", flip, nothing, "give the partition to the target in the catalog", commit_point=True)
_SWITCH_ON = Step(
    "switch_on", each_target(switch_on), nothing, "give the schema on the target its name: statements succeed there"
)
_RELEASE = Step("release", release, nothing, "drop the schema on the source")


def _online(describe_capture: str) -> tuple[Step, ...]:
    """The steps of a move whose writers go on."""
    return (
        Step("create", each_target(create_online), each_target(drop_incoming), _CREATE, rests=True),
        Step("capture", each_source(capture), each_source(drop_capture), describe_capture),
        Step("copy", copy_online, nothing, "copy the rows, while writers go on", rests=True),
        Step("finish", finish_online, nothing, _FINISH, rests=True),
        Step("verify", verify_ahead, nothing, "compare digests of all rows, while writers go on", rests=True),
        Step("catch_up", catch_up, nothing, "carry over what was written meanwhile"),
        Step("lock", each_source(lock_briefly), nothing, _LOCK),
        Step("last", last_round, undo_notes, "carry over and compare what was written last"),
        _FENCE,
        _DRAIN,
        _FLIP,
        _SWITCH_ON,
        Step("validate", each_target(validate), nothing, "validate foreign keys on the target", rests=True),
        _RELEASE,
    )


#: The steps of each mode.
STEPS: Mapping[Mode, tuple[Step, ...]] = {
    "block": (
        Step("create", create, drop_incoming, _CREATE),
        Step("lock", lock, nothing, _LOCK),
        Step("copy", copy, nothing, "copy the rows"),
        Step("finish", finish, nothing, _FINISH),
        Step("verify", verify, nothing, "compare digests of all rows"),
        _FENCE,
        _DRAIN,
        _FLIP,
        _SWITCH_ON,
        _RELEASE,
    ),
    "trigger": _online("have triggers note which rows are written"),
    "logical": _online("have a replication slot tell which rows are written"),
    "rename": (
        Step("lock", each_source(lock_briefly), nothing, _LOCK),
        _FENCE,
        _FLIP,
        _SWITCH_ON,
        Step("release", end, nothing, "end"),
    ),
}
#: Where writers begin to wait: a cutover that takes too long is undone back to here, and an online move goes on before.
LOCK = "lock"
RETRY = "catch_up"
#: Where a process that takes over an online move goes on.
RESUME = "copy"


def names_of(mode: Mode) -> list[str]:
    return [step.name for step in STEPS[mode]]


def first_of(mode: Mode) -> str:
    return STEPS[mode][0].name


def retry_of(mode: Mode) -> str:
    """Where a move goes on whose cutover was undone."""
    return RETRY if RETRY in names_of(mode) else LOCK


def is_committed(mode: Mode, name: str) -> bool:
    """Whether the step of that name comes after the commit point."""
    return name in [step.name for step in _forward(mode)]


def is_cut_over(mode: Mode, name: str) -> bool:
    """Whether writers wait, or the partition may be on neither side, when the step of that name runs."""
    names = names_of(mode)
    return names.index(name) >= names.index(LOCK)


def steps_to_run(mode: Mode, name: str) -> tuple[Step, ...]:
    """Return the step of that name and those after it if the move is past its commit point, else none."""
    forward = _forward(mode)
    names = [step.name for step in forward]
    return forward[names.index(name) :] if name in names else ()


def steps_to_undo(mode: Mode, name: str, back_to: str | None = None) -> tuple[Step, ...]:
    """Return the step of that name and those before it, the last first."""
    names = names_of(mode)
    return tuple(reversed(STEPS[mode][names.index(back_to or names[0]) : names.index(name) + 1]))


def _forward(mode: Mode) -> tuple[Step, ...]:
    commit = next(index for index, step in enumerate(STEPS[mode]) if step.commit_point)
    return STEPS[mode][commit + 1 :]
