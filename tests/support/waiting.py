"""Waiting for states, never for time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], what: str = "the expected state", seconds: float = 30.0) -> None:
    """Ask until *condition* holds; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        tick.wait(0.01)
