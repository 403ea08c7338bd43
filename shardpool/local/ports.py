"""Free ports on 127.0.0.1.

They are taken below the range from which the kernel gives ports to outgoing connections. In that range, a client that
retries the port of a stopped server can be given that very port for its own end and connect to itself.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
RANGE = range(15000, 32000)  # outgoing connections: from 32768 on Linux, 49152 elsewhere

_random = random.SystemRandom()  # not the same sequence in fork()ed processes


def candidates(preferred: int | None, attempts: int = 20) -> Iterator[int]:
    """Yield ports to try: the preferred one, then ports that were free a moment ago."""
    if preferred is not None:
        yield preferred
    for _ in range(attempts):
        port = _random.choice(RANGE)
        held = _bound(port, reuse=False)
        if held is not None:
            held.close()
            yield port


def reserve(port: int) -> socket.socket | None:
    """Keep a stopped server's port from being chosen by others; connections to it are refused. None if it is taken."""
    return _bound(port, reuse=True)


def _bound(port: int, *, reuse: bool) -> socket.socket | None:
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    try:
        held.bind((LOOPBACK, port))
    except OSError:
        held.close()
        return None
    return held
