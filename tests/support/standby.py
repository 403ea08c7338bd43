"""A standby of a local server, which can be promoted, as a managed service does behind an endpoint."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg2
from sqlalchemy.engine import make_url

from shardpool.local import reaper
from shardpool.local.binaries import account_for, programs, run_as
from shardpool.local.initdb import environment
from shardpool.local.ports import LOOPBACK, candidates
from shardpool.local.server import LocalServer
from tests.support.backends import plain_connection
from tests.support.waiting import eventually

STREAMS = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = '{}'"


class Standby:
    """Runs until the block of `standby_of` ends. `url` leads to its database `app`."""

    def __init__(self, primary: LocalServer, directory: Path) -> None:
        self.port = next(port for port in candidates(None) if port)
        self.url = make_url(primary.url).set(port=self.port).render_as_string(hide_password=False)
        account = account_for(primary.directory / "data")
        directory.mkdir(mode=0o700)
        if account is not None:
            os.chown(directory, account.uid, account.gid)
        binaries = programs(primary.version, account)
        options = {"cwd": directory, "env": environment(), "stdin": subprocess.DEVNULL, **run_as(account)}
        copy = ["-D", str(directory / "data"), "-h", LOOPBACK, "-p", str(primary.port), "-U", "shardpool"]
        subprocess.run([binaries / "pg_basebackup", *copy, "-R", "-c", "fast", "--no-sync"], check=True, **options)
        with (directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binaries / "postgres", "-D", str(directory / "data"), "-c", f"port={self.port}"],
                stdout=log,
                stderr=log,
                start_new_session=True,
                **options,
            )

    def ask(self, query: str) -> list[tuple[object, ...]]:
        connection = plain_connection(self.url)
        try:
            cursor = connection.cursor()
            cursor.execute(query)
            return cursor.fetchall()
        finally:
            connection.close()

    def is_ready(self) -> bool:
        try:
            return bool(self.ask("SELECT 1"))
        except psycopg2.OperationalError:
            return False

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let nothing arrive here while the block runs."""
        ((receiver,),) = self.ask("SELECT pid FROM pg_stat_wal_receiver")
        os.kill(int(str(receiver)), signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(int(str(receiver)), signal.SIGCONT)

    def promote(self) -> None:
        """Make it the primary, which it is when this returns."""
        assert self.ask("SELECT pg_promote()") == [(True,)]

    def kill(self) -> None:
        reaper.crash(self._process.pid)
        self._process.wait(10)


@contextmanager
def standby_of(primary: LocalServer, *, synchronous: bool) -> Iterator[Standby]:
    """Copy a server and follow it; with *synchronous*, its commits wait for the copy unless they ask for less."""
    found = Standby(primary, primary.directory.with_name(f"{primary.name}-standby"))
    try:
        eventually(found.is_ready, "the standby accepts connections")
        connection = plain_connection(primary.url)
        with connection.cursor() as cursor:
            if synchronous:
                cursor.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                cursor.execute("SELECT pg_reload_conf()")

            def streams() -> bool:
                cursor.execute(STREAMS.format("sync" if synchronous else "async"))
                return cursor.fetchone() is not None

            eventually(streams, "the standby follows")
        connection.close()
        yield found
    finally:
        found.kill()
