"""Where a test may kill this process. A no-op unless ``SHARDPOOL_FAULT`` names the point: ``<name>:kill9``."""

from __future__ import annotations

import os
import signal

#: What the environment asks for. Read once: a commit has no time to look for it.
armed = ""


def fault_point(name: str) -> None:
    """End the process with SIGKILL if the environment asked for it at the point *name* when the process began."""
    if armed and armed == f"{name}:kill9":
        os.kill(os.getpid(), signal.SIGKILL)


def _begin_process() -> None:
    global armed
    armed = os.environ.get("SHARDPOOL_FAULT", "")


_begin_process()
os.register_at_fork(after_in_child=_begin_process)
