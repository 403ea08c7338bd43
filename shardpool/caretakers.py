"""What routers do for the cluster now and then: settling what processes that died have left behind.

A router knows nothing of moves. What is built upon it registers its caretaker here, and every router that listens calls
all of them in one thread, soon after it starts and then every few seconds.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

#: Called with a router. Whatever it raises is logged; it is called again later.
Caretaker = Callable[[Any], object]

#: Seconds between two rounds, stretched or shrunk by up to half, so that routers that start together take turns.
INTERVAL = 5.0

_registered: list[Caretaker] = []


def register(caretaker: Caretaker) -> Caretaker:
    """Have every router call *caretaker*. Usable as a decorator."""
    _registered.append(caretaker)
    return caretaker


class CaretakerThread:
    """Calls the caretakers for one router, until `close`."""

    def __init__(self, router: Any) -> None:
        self._router = router
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shardpool-caretaker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout: float = 30.0) -> None:
        """Stop after the call that runs, waiting *timeout* seconds at most. Idempotent."""
        self._closed.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        pause = random.uniform(0, INTERVAL / 10)
        while not self._closed.wait(pause):
            for caretaker in _registered:
                try:
                    caretaker(self._router)
                except Exception as error:
                    log.debug("caretaker %s: %s", getattr(caretaker, "__name__", caretaker), error)
            pause = INTERVAL * random.uniform(0.5, 1.5)
