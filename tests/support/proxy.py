"""A TCP proxy before a PostgreSQL server, which loses a message when it is told to."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

CHUNK = 1 << 16


class Cut:
    """Once, at the first request that matches *pattern* on any proxy that has this rule, the connection is lost.

    ``request``: the server never sees it. ``reply``: the server answers, the client never sees the answer. ``stall``:
    the client loses its connection, and the server waits for the request on a connection that stays open. With
    *refuse*, the server cannot be reached any more from then on. `at` is the proxy where it happened.
    """

    def __init__(self, pattern: bytes, side: Literal["request", "reply", "stall"], refuse: bool = False) -> None:
        self.pattern, self.side, self.refuse = re.compile(pattern), side, refuse
        self.fired = threading.Event()
        self.at: Proxy | None = None
        self._lock = threading.Lock()

    def fires(self, request: bytes) -> bool:
        with self._lock:
            if self.fired.is_set() or not self.pattern.search(request):
                return False
            self.fired.set()
            return True


class Proxy:
    """Listens on `port` and passes everything to a server; a context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.rules: list[Cut] = []
        self.refusing = False
        self._sockets: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def refuse(self, refusing: bool = True) -> None:
        """Lose all connections and take no new ones, or take them again."""
        self.refusing = refusing
        if refusing:
            self._lose(*self._sockets)

    def lead_to(self, host: str, port: int) -> None:
        """Lose all connections; from now on lead to another server."""
        self._server = (host, port)
        self._lose(*self._sockets)

    def close(self) -> None:
        self._listener.close()
        self.refuse()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.add(end)
            deaf = threading.Event()
            threading.Thread(target=self._requests, args=(client, server, deaf), daemon=True).start()
            threading.Thread(target=self._replies, args=(client, server, deaf), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, deaf: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(CHUNK):
                cut = next((rule for rule in self.rules if rule.fires(data)), None)
                if cut is not None:
                    cut.at = self
                    self.refusing = cut.refuse
                    self._lose(*(self._sockets - {client, server} if cut.refuse else ()))
                if cut is not None and cut.side == "stall":
                    self._lose(client)
                    return
                if cut is not None and cut.side == "request":
                    break
                if cut is not None:
                    deaf.set()
                server.sendall(data)
        if not deaf.is_set():
            self._lose(client, server)

    def _replies(self, client: socket.socket, server: socket.socket, deaf: threading.Event) -> None:
        with suppress(OSError):
            while (data := server.recv(CHUNK)) and not deaf.is_set():
                client.sendall(data)
        self._lose(client, server)

    def _lose(self, *ends: socket.socket) -> None:
        for end in ends:
            self._sockets.discard(end)
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
