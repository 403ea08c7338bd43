"""How far a move is: for the caller's callback, and for `move_status` in other processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds between two calls of the callback within a step.
INTERVAL = 0.2
#: The step of the last thing that is told of a move in a rebalance.
DONE = "done"


@dataclass(frozen=True)
class MoveProgress:
    """The step that runs, rows and bytes copied so far. `total_bytes` is the size of the tables, an estimate of how
    many bytes there will be; it is 0 before they are known. `seconds` since the beginning."""

    partition: int
    step: str
    rows: int
    bytes: int
    total_bytes: int
    seconds: float


Callback = Callable[[MoveProgress], object]


class Meter:
    """Counts what was copied, times the steps, and tells the callback: at each step, and now and then within it."""

    def __init__(self, partition: int, callback: Callback | None) -> None:
        self._partition = partition
        self._callback = callback
        self._began = self._told = time.monotonic()
        self.rows = self.bytes = self.total_bytes = 0
        self.carried = self.lag = 0
        self.step = ""
        self.started: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def enter(self, step: str) -> None:
        self.step = step
        self.started[step] = self.seconds
        self.tell()

    def add_bytes(self, size: int) -> None:
        self.bytes += size

    def tick(self) -> None:
        """Tell the callback if it was not told lately."""
        if time.monotonic() - self._told >= INTERVAL:
            self.tell()

    def facts(self) -> dict[str, int | float]:
        """Return what other processes are told."""
        return {
            "rows": self.rows,
            "bytes": self.bytes,
            "total_bytes": self.total_bytes,
            "carried": self.carried,
            "lag": self.lag,
            "copying": round(self.seconds - self.started.get("copy", self.seconds), 3),
        }

    def tell(self) -> None:
        self._told = time.monotonic()
        if self._callback is not None:
            self._callback(
                MoveProgress(self._partition, self.step, self.rows, self.bytes, self.total_bytes, self.seconds)
            )
