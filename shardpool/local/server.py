"""One PostgreSQL server on 127.0.0.1: start, stop, crash.

Its directory holds ``data`` (PostgreSQL's data directory), ``postgres.log`` and ``port``. ``data`` appears by a rename
after initdb has succeeded, so what is there is whole. The server runs in a session of its own: a Ctrl-C in the
terminal does not reach it. Whoever can connect to 127.0.0.1 is superuser in it: this is not for machines shared with
people you do not trust.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

from shardpool.errors import LocalClusterError
from shardpool.local import initdb, ports, postmaster, reaper
from shardpool.local.settings import Settings, check_settings, write_settings

STOP_TIMEOUT = 30.0


class LocalServer:
    """A PostgreSQL server with the superuser `shardpool` and the database `app`.

    Nothing watches over a lone server: call `stop`, or use a `LocalCluster` of one shard.
    """

    def __init__(
        self, name: str, directory: str | os.PathLike[str], *, version: int = 18, settings: Settings | None = None
    ) -> None:
        """Prepare a server in `directory`; nothing is started or written yet. `settings` are PostgreSQL parameters.

        Raise ValueError for settings that are not parameters, or that the server sets itself (the port).
        """
        self._reserved: socket.socket | None = None
        self.name = name
        self.version = version
        self.directory = Path(directory).absolute()  # symbolic links stay: processes are found by this path
        self.log = self.directory / "postgres.log"
        self._settings = check_settings(settings or {})
        self._port = self._kept_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()

    @property
    def port(self) -> int:
        """The TCP port; it stays the same over restarts while it is free. Raise `LocalClusterError` before a start."""
        if self._port is None:
            raise LocalClusterError(f"server {self.name} was never started: it has no port yet")
        return self._port

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the database `app`."""
        return f"postgresql+psycopg2://{initdb.SUPERUSER}@{ports.LOOPBACK}:{self.port}/{initdb.DATABASE}"

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster, None when it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the server, with recovery if it crashed, and wait until it accepts connections. No-op if it runs.

        Raise `LocalClusterError`, with the end of the log, if it fails or is not ready after 60 seconds.
        """
        with self._lock:
            if self.pid is not None:
                return
            reaper.end(self.directory, [(signal.SIGQUIT, 10.0)])  # of an owner whose watchdog was killed too
            initdb.ensure(self.directory, self.version)
            for port in ports.candidates(self._port):
                self.release_port()
                write_settings(self.directory / "data", port, self._settings)
                self._process = postmaster.launch(self.directory, self.version, self.log)
                if self._process is not None:
                    break
            else:
                raise LocalClusterError(f"found no free port on {ports.LOOPBACK} for server {self.name}")
            self._port = port
            (self.directory / "port").write_text(f"{port}\n")
            try:
                initdb.create_database(port)
            except BaseException:
                self.kill()
                raise

    def stop(self) -> None:
        """Disconnect all clients and shut down (fast; immediately after 30 seconds). No-op if it does not run."""
        self.begin_stop(signal.SIGINT)
        self.finish_stop()

    def begin_stop(self, how: signal.Signals) -> None:
        """Only send the signal: SIGINT for a fast shutdown, SIGQUIT for an immediate one without a checkpoint."""
        if (pid := self.pid) is not None:
            reaper.send(pid, how)
            reaper.send(pid, signal.SIGCONT)  # it may have been frozen

    def finish_stop(self) -> None:
        """Wait for the end of a server that was told to stop, and make sure of it."""
        with self._lock:
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_TIMEOUT)
                reaper.end(self.directory, [(signal.SIGQUIT, 10.0)])
                self._ended(self._process)

    def kill(self) -> None:
        """SIGKILL the postmaster and all of its children, like a crash of the machine. No-op if it does not run."""
        with self._lock:
            if self._process is not None and self.pid is not None:
                segment = reaper.shared_memory_of(self.directory / "data")
                reaper.crash(self._process.pid)
                self._ended(self._process)
                reaper.remove_shared_memory(segment)

    def release_port(self) -> None:
        """Give up the port, which is otherwise reserved for this server while it is stopped."""
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def __del__(self) -> None:
        self.release_port()

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        process.wait(10)
        self._process = None
        self._reserved = ports.reserve(self.port)

    def _kept_port(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int((self.directory / "port").read_text())
        return None
