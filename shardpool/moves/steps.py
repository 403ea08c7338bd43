"""The steps of a move. Read them from top to bottom: this is the protocol.

The runner writes the name of each step into the catalog before it runs it. Recovery reads the name and knows what may
have happened: before the commit point it undoes all steps from that one backwards, after it it runs the rest. So each
`undo` must be right even if its step did not begin, and each `run` after the commit point even if it was completed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shardpool.moves.copy import copy
from shardpool.moves.create import create, drop_incoming, finish
from shardpool.moves.fence import drain, fence, take_fence_down
from shardpool.moves.lock import lock
from shardpool.moves.move import Move
from shardpool.moves.switch import flip, release, switch_on
from shardpool.moves.verify import verify


def nothing(move: Move) -> None:
    """What a transaction that is rolled back leaves to undo."""


@dataclass(frozen=True)
class Step:
    """One step. `describe` says what it does; `commit_point` marks the one after which nothing is undone."""

    name: str
    run: Callable[[Move], None]
    undo: Callable[[Move], None]
    describe: str
    commit_point: bool = False


STEPS: tuple[Step, ...] = (
    Step("create", create, drop_incoming, "create the tables on the target, in a schema that is not in use"),
    Step("lock", lock, nothing, "make writers of the partition wait"),
    Step("copy", copy, nothing, "copy the rows"),
    Step("finish", finish, nothing, "create foreign keys, triggers and indexes on the target"),
    Step("verify", verify, nothing, "compare digests of all rows"),
    Step("fence", fence, take_fence_down, "rename the schema on the source: statements fail there"),
    Step("drain", drain, nothing, "wait for transactions that have read on the source"),
    Step("flip", flip, nothing, "give the partition to the target in the catalog", commit_point=True),
    Step("switch_on", switch_on, nothing, "give the schema on the target its name: statements succeed there"),
    Step("release", release, nothing, "drop the schema on the source"),
)

_COMMIT = next(index for index, step in enumerate(STEPS) if step.commit_point)
FORWARD: tuple[Step, ...] = STEPS[_COMMIT + 1 :]
FIRST = STEPS[0].name


def steps_to_run(name: str) -> tuple[Step, ...]:
    """Return the step of that name and those after it if the move is past its commit point, else none."""
    names = [step.name for step in FORWARD]
    return FORWARD[names.index(name) :] if name in names else ()


def steps_to_undo(name: str) -> tuple[Step, ...]:
    """Return the step of that name and those before it, the last first."""
    names = [step.name for step in STEPS]
    return tuple(reversed(STEPS[: names.index(name) + 1]))
