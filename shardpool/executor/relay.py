"""The relay: binary COPY streams of several shards joined into one COPY FROM, undecoded, in bounded memory.

PostgreSQL sends one CopyData message per row ("always one per row", protocol documentation, COPY operations), and
psycopg2 one `write` per message; so chunks that end with a message hold whole rows and may be mixed. Of each stream the
header (11 bytes signature, flags, extension length) is cut off, and the trailer (a field count of -1).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from shardpool.engines.binary_copy import HEADER, SIGNATURE, TRAILER

CHUNK_BYTES = 1 << 16
QUEUE_CHUNKS = 32
#: How often a waiting end looks whether the other end has failed, in seconds.
CHECK_INTERVAL = 0.5


class RelayStopped(Exception):
    """The other end of the relay has failed."""


class Relay:
    """Several `Producer`s and one reader: this object, as the file of COPY FROM. `on_bytes` gets each chunk's size."""

    def __init__(self, producers: int, on_bytes: Callable[[int], None]) -> None:
        self._chunks: queue.Queue[bytes | None] = queue.Queue(QUEUE_CHUNKS)
        self._open = producers
        self._on_bytes = on_bytes
        self._stopped = threading.Event()
        self._state = "header"

    def stop(self) -> None:
        """Make both ends fail at their next step."""
        self._stopped.set()

    def put(self, chunk: bytes | None) -> None:
        while True:
            if self._stopped.is_set():
                raise RelayStopped
            try:
                return self._chunks.put(chunk, timeout=CHECK_INTERVAL)
            except queue.Full:
                continue

    def read(self, size: int = -1) -> bytes:
        """Return the next chunk, of any size; b"" after the end."""
        if self._state == "header":
            self._state = "rows"
            return HEADER
        while self._open:
            if self._stopped.is_set():
                raise RelayStopped
            try:
                chunk = self._chunks.get(timeout=CHECK_INTERVAL)
            except queue.Empty:
                continue
            if chunk is None:
                self._open -= 1
                continue
            self._on_bytes(len(chunk))
            return chunk
        if self._state == "rows":
            self._state = "end"
            return TRAILER
        return b""


class FanOut:
    """Several relays as one: each gets every chunk."""

    def __init__(self, relays: list[Relay]) -> None:
        self._relays = relays

    def put(self, chunk: bytes | None) -> None:
        for relay in self._relays:
            relay.put(chunk)


class Producer:
    """One shard's stream: the file of its COPY TO."""

    __slots__ = ("_held", "_relay", "_size", "_started")

    def __init__(self, relay: Relay | FanOut) -> None:
        self._relay = relay
        self._held: list[bytes] = []
        self._size = 0
        self._started = False

    def write(self, message: bytes) -> None:
        """Take a message; this runs once per row."""
        self._held.append(message)
        self._size += len(message)
        if self._size >= CHUNK_BYTES:
            # The last message is held back: it may be the trailer.
            last = self._held.pop()
            self._pass_on(b"".join(self._held))
            self._held, self._size = [last], len(last)

    def close(self) -> None:
        """The stream ended well: pass on what is left, without the trailer."""
        rest = b"".join(self._held)
        if not rest.endswith(TRAILER):
            raise ValueError("a binary COPY stream ended without its trailer")
        self._pass_on(rest[: -len(TRAILER)])
        self._relay.put(None)

    def _pass_on(self, data: bytes) -> None:
        if not self._started and data:
            if not data.startswith(SIGNATURE):
                raise ValueError("not a binary COPY stream")
            data = data[len(HEADER) :]
            self._started = True
        if data:
            self._relay.put(data)
