"""A server as it is from another machine: every message takes its time on the way."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from sqlalchemy.engine import make_url

CHUNK = 1 << 16


@contextmanager
def at_a_distance(url: str, round_trip: float) -> Iterator[str]:
    """Give a URL that leads to the server of *url*, over which an answer takes *round_trip* seconds more.

    The relay is a process of its own, so that it takes no turn of the interpreter's lock.
    """
    behind = make_url(url)
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe()
    server = (behind.host or "127.0.0.1", behind.port or 5432)
    process = context.Process(target=_relay, args=(server, round_trip / 2, there), daemon=True)
    process.start()
    try:
        yield behind.set(host="127.0.0.1", port=here.recv()).render_as_string(False)
    finally:
        process.terminate()
        process.join(5)


def _relay(server: tuple[str, int], delay: float, pipe: Connection) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    pipe.send(listener.getsockname()[1])
    while True:
        client, _ = listener.accept()
        ends = client, socket.create_connection(server)
        for end in ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink in (ends, ends[::-1]):
            threading.Thread(target=_pass, args=(source, sink, delay), daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket, delay: float) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            time.sleep(delay)
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
