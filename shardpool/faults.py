"""Where a test may kill this process. A no-op unless ``SHARDPOOL_FAULT`` names the point: ``<name>:kill9``."""

from __future__ import annotations

import os
import signal

_asked_for: str = ""


def fault_point(name: str) -> None:
    """End the process with SIGKILL if its environment asked for it, when it began, at the point *name*."""
    if _asked_for and _asked_for == f"{name}:kill9":
        os.kill(os.getpid(), signal.SIGKILL)


def _read() -> None:
    global _asked_for
    _asked_for = os.environ.get("SHARDPOOL_FAULT", "")


_read()
os.register_at_fork(after_in_child=_read)
