"""Where a test may kill this process. A no-op unless ``SHARDPOOL_FAULT`` names the point: ``<name>:kill9``."""

from __future__ import annotations

import os
import signal


def fault_point(name: str) -> None:
    """End the process with SIGKILL if the environment asks for it at the point *name*."""
    if os.environ.get("SHARDPOOL_FAULT") == f"{name}:kill9":
        os.kill(os.getpid(), signal.SIGKILL)
