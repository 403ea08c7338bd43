"""The state of a move in the process that works on it: all that the steps are given."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardpool.moves.journal import Journal, Leftover
from shardpool.moves.progress import Meter
from shardpool.moves.record import MoveRecord
from shardpool.moves.servers import Servers
from shardpool.router import Router

if TYPE_CHECKING:
    from shardpool.moves.rounds import Rounds


@dataclass
class Move:
    """One attempt at a move. `leftovers` collects what could not be dropped yet.

    Writers wait from `locked_at` to `switched_at`, both of the monotonic clock; None if that did not happen here.
    """

    router: Router
    record: MoveRecord
    servers: Servers
    meter: Meter
    locked_at: float | None = None
    switched_at: float | None = None
    rounds: Rounds | None = None
    leftovers: list[Leftover] = field(default_factory=list)

    @property
    def patience(self) -> float:
        """How long writers may wait from now on, in seconds."""
        limit = self.router.config.moves.cutover_timeout
        return limit if self.locked_at is None else max(self.locked_at + limit - time.monotonic(), 0.0)

    @property
    def journal(self) -> Journal:
        return Journal(self.router.catalog)
