"""How far a load is, told to a callback a few times a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds between two calls of the callback.
INTERVAL = 0.2


@dataclass(frozen=True)
class LoadProgress:
    """Rows and bytes read from the source so far. `total_bytes` is None when the size is not known; both byte counts
    are of the source as it is stored (compressed, if it is).
    """

    rows: int
    bytes: int
    total_bytes: int | None
    seconds: float


class Meter:
    """Counts rows and calls *callback* at most once per `INTERVAL`, and once at the end."""

    def __init__(
        self, callback: Callable[[LoadProgress], None] | None, position: Callable[[], int], total: int | None
    ) -> None:
        self._callback = callback
        self._position = position
        self._total = total
        self._started = self._last = time.monotonic()
        self.rows = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def add(self, rows: int) -> None:
        self.rows += rows
        if self._callback is not None and time.monotonic() - self._last >= INTERVAL:
            self.report()

    def report(self) -> None:
        """Call the callback now."""
        if self._callback is not None:
            self._last = time.monotonic()
            self._callback(LoadProgress(self.rows, self._position(), self._total, self.seconds))
