"""The state of a move in the process that works on it: all that the steps are given."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from shardpool.bulk.throttle import NO_LIMITS, Throttle
from shardpool.moves.journal import Journal, Leftover
from shardpool.moves.progress import Meter
from shardpool.moves.record import MoveRecord
from shardpool.moves.servers import Servers
from shardpool.router import Router

if TYPE_CHECKING:
    from shardpool.moves.rounds import Rounds


@dataclass
class Pause:
    """Writers wait from `began` to `ended`, both of the monotonic clock; None if that did not happen here."""

    began: float | None = None
    ended: float | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.began if self.began is not None and self.ended is not None else 0.0


@dataclass
class Move:
    """One attempt at a move. `leftovers` collects what could not be dropped yet.

    A change of partitions has several legs, each of them a move with the same state; see `record`.
    """

    router: Router
    record: MoveRecord
    servers: Servers
    meter: Meter
    pause: Pause = field(default_factory=Pause)
    rounds: list[Rounds] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    throttle: Throttle = field(default_factory=lambda: Throttle(NO_LIMITS))

    @property
    def legs(self) -> tuple[Move, ...]:
        """All pairs of a source and a target."""
        if self.record.kind == "move":
            return (self,)
        return tuple(replace(self, record=leg, servers=self.servers.leg(leg)) for leg in self.record.legs)

    @property
    def by_source(self) -> tuple[Move, ...]:
        """One leg of each source."""
        return tuple({leg.record.partition: leg for leg in reversed(self.legs)}.values())[::-1]

    @property
    def by_target(self) -> tuple[Move, ...]:
        """One leg of each target."""
        return tuple({leg.record.result: leg for leg in reversed(self.legs)}.values())[::-1]

    @property
    def patience(self) -> float:
        """How long writers may wait from now on, in seconds."""
        limit, began = self.router.config.moves.cutover_timeout, self.pause.began
        return limit if began is None else max(began + limit - time.monotonic(), 0.0)

    def rest(self) -> None:
        """Rest for the work that was done, as far as others are to get on. Transactions are rolled back.

        Raise `MoveTakenOver` if somebody else settles the move meanwhile.
        """
        self.servers.rollback()
        while self.throttle.pace.rest(0):
            self.meter.tick()
            self.journal.check(self.record)

    @property
    def journal(self) -> Journal:
        return Journal(self.router.catalog)


Run = Callable[[Move], None]


def each_source(run: Run) -> Run:
    """Return a step that does *run* for each source."""

    def run_all(move: Move) -> None:
        for leg in move.by_source:
            run(leg)

    return run_all


def each_target(run: Run) -> Run:
    """Return a step that does *run* for each target."""

    def run_all(move: Move) -> None:
        for leg in move.by_target:
            run(leg)

    return run_all
