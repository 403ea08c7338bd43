"""A TCP proxy in front of a server: it cuts a connection at a chosen message, before it arrives or before its answer.

It reads the client's messages of PostgreSQL's protocol, without TLS, as far as their kind and length.
"""

from __future__ import annotations

import multiprocessing
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Literal

from sqlalchemy.engine import make_url

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104

When = Literal["before", "after"]


class CuttingProxy:
    """Passes everything on to the server of *url*, until `cut` says otherwise. `url` leads through it.

    It is a process of its own: psycopg2 holds the interpreter's lock while it sends a cancel request.
    """

    def __init__(self, url: str) -> None:
        behind = make_url(url)
        context = multiprocessing.get_context("forkserver")
        self._pipe, there = context.Pipe()
        server = (behind.host or "127.0.0.1", behind.port or 5432)
        self._process = context.Process(target=_run, args=(server, there), daemon=True)
        self._process.start()
        self.url = behind.set(host="127.0.0.1", port=self._pipe.recv()).render_as_string(False)

    def cut(self, pattern: str, number: int, when: When) -> None:
        """Cut the connection that sends the *number*-th query that matches, counted from now: once."""
        self._pipe.send((pattern, number, when))
        self._pipe.recv()

    def watch(self, pattern: str) -> None:
        """Only count."""
        self.cut(pattern, -1, "before")

    @property
    def matched(self) -> int:
        """How many messages matched since `cut` or `watch`."""
        return self._ask()[0]

    @property
    def has_cut(self) -> bool:
        """Whether a connection was cut since then."""
        return self._ask()[1]

    def close(self) -> None:
        self._process.terminate()
        self._process.join(5)

    def _ask(self) -> tuple[int, bool]:
        self._pipe.send(None)
        found: tuple[int, bool] = self._pipe.recv()
        return found


def _run(server: tuple[str, int], pipe: Connection) -> None:
    proxy = _Proxy(server)
    pipe.send(proxy.port)
    while True:
        command = pipe.recv()
        if command is not None:
            proxy.cut(*command)
        pipe.send((proxy.matched, proxy.has_cut))


class _Proxy:
    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pattern: re.Pattern[bytes] | None = None
        self._countdown = 0
        self._when: When = "before"
        self.matched = 0
        self.has_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, pattern: str, number: int, when: When) -> None:
        with self._lock:
            self._pattern, self._countdown, self._when = re.compile(pattern.encode()), number, when
            self.matched, self.has_cut = 0, False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError, EOFError), socket.create_connection(self._server) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            muted = threading.Event()
            answered = threading.Event()
            back = threading.Thread(target=self._answers, args=(server, client, muted, answered), daemon=True)
            server.sendall(_first_message(client))
            back.start()
            try:
                self._requests(client, server, muted, answered)
            finally:
                for end in (client, server):
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                back.join(5)

    def _requests(
        self, client: socket.socket, server: socket.socket, muted: threading.Event, answered: threading.Event
    ) -> None:
        while True:
            head = _exactly(client, 5)
            body = _exactly(client, struct.unpack("!i", head[1:])[0] - 4)
            when = self._matches(body) if head[:1] in b"QP" else None
            if when == "before":
                return
            if when == "after":
                muted.set()
                answered.clear()
            server.sendall(head + body)
            if when == "after":
                answered.wait(10)
                return

    def _matches(self, body: bytes) -> When | None:
        with self._lock:
            if self._pattern is None or not self._pattern.search(body):
                return None
            self.matched += 1
            if self.has_cut or self.matched != self._countdown:
                return None
            self.has_cut = True
            return self._when

    def _answers(
        self, server: socket.socket, client: socket.socket, muted: threading.Event, answered: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if muted.is_set():
                    answered.set()
                else:
                    client.sendall(data)
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def _first_message(client: socket.socket) -> bytes:
    """Return the client's start-up message; encryption, for which it may ask before, is declined."""
    while True:
        length = _exactly(client, 4)
        body = _exactly(client, struct.unpack("!i", length)[0] - 4)
        if struct.unpack("!i", body[:4])[0] not in (SSL_REQUEST, GSS_REQUEST):
            return length + body
        client.sendall(b"N")


def _exactly(connection: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        data = connection.recv(size - len(found))
        if not data:
            raise EOFError
        found += data
    return bytes(found)


@contextmanager
def proxies(urls: list[str]) -> Iterator[list[CuttingProxy]]:
    """A proxy for each URL."""
    found = [CuttingProxy(url) for url in urls]
    try:
        yield found
    finally:
        for proxy in found:
            proxy.close()
