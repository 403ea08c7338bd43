"""Several local servers as the shards of one keyspace.

A cluster directory holds one directory per shard and ``cluster.lock``. Without a directory of the user's, it is a
temporary one that is removed at the end. The cluster belongs to the process that starts it and ends with it, whatever
ends the process: close() and atexit in the normal way, the watchdog otherwise. A fork()ed child can use the servers,
but neither controls nor ends them.
"""

from __future__ import annotations

import atexit
import itertools
import os
import re
import signal
import threading
from collections.abc import Collection, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from shardpool.errors import LocalClusterError
from shardpool.local.directory import ClusterDirectory
from shardpool.local.document import document, to_toml
from shardpool.local.server import LocalServer
from shardpool.local.settings import THROWAWAY, Settings, check_settings

if TYPE_CHECKING:
    from shardpool.router import Router


class LocalCluster:
    """PostgreSQL servers named ``s0``, ``s1``, ... on 127.0.0.1; a context manager, or `start` and `close`."""

    def __init__(
        self,
        shards: int = 3,
        partitions: int = 16,
        directory: str | os.PathLike[str] | None = None,
        keyspace: str = "app",
        version: int = 18,
        settings: Settings | None = None,
    ) -> None:
        """Describe a cluster; `start` starts it. The data stays in `directory`; without one it is thrown away.

        `version` is PostgreSQL's (16 or 18), `settings` are its parameters, for all servers. With a directory that was
        used before, all shards found there are started, and new ones up to `shards`.
        """
        if shards < 1:
            raise ValueError(f"a cluster has at least one shard, got {shards}")
        self.shards, self.partitions, self.keyspace, self.version = shards, partitions, keyspace, version
        self._wanted = None if directory is None else Path(directory).resolve()
        self._settings = check_settings({**(THROWAWAY if directory is None else {}), **(settings or {})})
        self._servers: dict[str, LocalServer] = {}
        self._opened: ClusterDirectory | None = None
        self._owner: int | None = None  # a process id
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def directory(self) -> Path:
        """The cluster directory. Raise `LocalClusterError` when the cluster is not started."""
        if self._opened is None:
            raise LocalClusterError("the cluster is not started")
        return self._opened.path

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all shards, also of stopped ones, in the order in which they were added."""
        return tuple(self._servers)

    def server(self, name: str) -> LocalServer:
        """Return the server of a shard. Raise `LocalClusterError` if there is none."""
        try:
            return self._servers[name]
        except KeyError:
            known = ", ".join(self._servers) or "none, the cluster is not started"
            raise LocalClusterError(f"no shard {name!r} in this cluster (its shards: {known})") from None

    def url(self, name: str) -> str:
        """Return ``postgresql+psycopg2://shardpool@127.0.0.1:PORT/app`` of a shard."""
        return self.server(name).url

    def start(self, name: str | None = None) -> Self:
        """Start the shard `name` again after `stop` or `kill`; without a name, start the cluster.

        Raise `LocalClusterError` with the end of a server's log if it fails; then nothing of the cluster is left
        running.
        """
        self._check_owner()
        if name is not None:
            self.server(name).start()
            return self
        with self._lock:
            try:
                if self._opened is None:
                    self._open()
                _start_all(self._servers.values())
            except BaseException:
                self.close()
                raise
        return self

    def add_shard(self, name: str | None = None) -> str:
        """Start one more server and return its name. Routers do not know of it until they are told."""
        self._check_owner()
        with self._lock:
            name = next(_default_names(self._servers)) if name is None else name
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name) or name in self._servers:
                raise ValueError(f"{name!r} is taken, or not a name of up to 40 of a-z, 0-9, _ and -")
            server = self._add(name)
        try:
            server.start()
        except BaseException:
            server.stop()
            del self._servers[name]
            raise
        return name

    def stop(self, name: str) -> None:
        """Shut a shard down (fast: its clients are disconnected). `start` starts it again, on the same port."""
        self._check_owner()
        self.server(name).stop()

    def kill(self, name: str) -> None:
        """SIGKILL all processes of a shard, like a crash of its machine. `start` lets it recover."""
        self._check_owner()
        self.server(name).kill()

    def close(self) -> None:
        """Stop all servers, and remove the directory if it is temporary. No-op if closed, and in a fork()ed child."""
        if self._owner != os.getpid():
            return
        with self._lock:
            for server in self._servers.values():
                server.begin_stop(signal.SIGQUIT if self._wanted is None else signal.SIGINT)
            for server in self._servers.values():
                server.finish_stop()
                server.release_port()
            if self._opened is not None:
                self._opened.close()
            atexit.unregister(self.close)
            self._servers, self._opened, self._owner = {}, None, None

    def write_config(self, path: str | os.PathLike[str]) -> Path:
        """Write a ``cluster.toml`` for this cluster, with the catalog on its first shard, and return its path."""
        target = Path(path)
        target.write_text(to_toml(self._document()), encoding="utf-8")
        return target

    def router(self, **options: Any) -> Router:
        """Create the catalog if there is none, and return a `Router` for this cluster; `options` are the Router's."""
        from shardpool.config import parse_config
        from shardpool.router import Router

        config = parse_config(self._document(), source="LocalCluster")
        Router.initialise(config)
        return Router(config, **options)

    def _document(self) -> dict[str, Any]:
        if self._opened is None:
            raise LocalClusterError("the cluster is not started")
        return document(self.keyspace, self.partitions, {name: server.url for name, server in self._servers.items()})

    def _check_owner(self) -> None:
        if self._owner not in (None, os.getpid()):
            raise LocalClusterError(f"this cluster belongs to process {self._owner}: only that one controls it")

    def _open(self) -> None:
        self._opened = ClusterDirectory(self._wanted)
        self._owner = os.getpid()
        atexit.register(self.close)
        first = [f"s{n}" for n in range(self.shards)]  # s0 stays the first: it has the catalog
        for name in dict.fromkeys([*first, *self._opened.shards()]):
            self._add(name)

    def _add(self, name: str) -> LocalServer:
        server = LocalServer(name, self.directory / name, version=self.version, settings=self._settings)
        self._servers[name] = server
        return server


def _default_names(taken: Container[str]) -> Iterator[str]:
    return (name for name in (f"s{n}" for n in itertools.count()) if name not in taken)


def _start_all(servers: Collection[LocalServer]) -> None:
    with ThreadPoolExecutor(max_workers=len(servers)) as pool:
        list(pool.map(LocalServer.start, servers))
