"""Create the data directory of a local server, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import psycopg2

from shardpool.errors import LocalClusterError
from shardpool.local.binaries import Account, account_for, may, programs, run_as
from shardpool.local.ports import LOOPBACK
from shardpool.local.reaper import marker

SUPERUSER = "shardpool"
DATABASE = "app"
TIMEOUT = 60.0


def ensure(directory: Path, version: int) -> None:
    """Create ``data`` in a server's directory, or check that the one there is of `version`.

    Raise `LocalClusterError` if initdb fails, or if ``data`` is something else.
    """
    data = directory / "data"
    if data.exists():
        found = data / "PG_VERSION"
        if not found.exists() or found.read_text().strip() != str(version):
            kind = f"PostgreSQL {found.read_text().strip()}" if found.exists() else "no PostgreSQL data"
            raise LocalClusterError(f"{data} holds {kind}, expected PostgreSQL {version}")
        return
    unfinished = directory / "data.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _initdb(directory, unfinished, version)
    unfinished.rename(data)


def _initdb(directory: Path, data: Path, version: int) -> None:
    account = account_for(data)
    if account is not None:
        os.chown(data, account.uid, account.gid)
    command = [str(programs(version, account) / "initdb"), "-D", path_for(account, data), "-U", SUPERUSER]
    command += ["-A", "trust", "-E", "UTF8", "--no-sync", "-c", marker(directory)]
    if version >= 17:  # code point order and Unicode character classes, the same on every system
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if version >= 18:
        command += ["--no-data-checksums"]
    said = ""
    for locale in ("C.UTF-8", "C"):  # not every system has the first
        code, output = _run([*command, f"--locale={locale}"], data, account)
        if code == 0:
            return
        said += output
        if "invalid locale" not in output:
            break
    raise LocalClusterError(f"initdb of PostgreSQL {version} in {data} failed:\n{said[-2000:]}")


def _run(command: list[str], data: Path, account: Account | None) -> tuple[int, str]:
    try:
        run = subprocess.run(
            command,
            cwd=data,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            start_new_session=True,
            check=False,
            **run_as(account),
        )
    except subprocess.TimeoutExpired:
        return 1, f"not finished after {TIMEOUT:.0f} seconds"
    return run.returncode, run.stdout


def path_for(account: Account | None, data: Path) -> str:
    """Return the path by which a program that is started in `data` as `account` can name `data`.

    Below a directory that the account cannot enter (``/root``, pytest's ``tmp_path``), that is the kernel's link to
    the program's working directory: it needs no permission on the directories above, and none has to be changed.
    """
    if account is None or may(account, "x", data):
        return str(data)
    if Path("/proc/self/cwd").exists():
        return "/proc/self/cwd"
    raise LocalClusterError(f"user id {account.uid} cannot enter {data}: root needs a directory that is open to it")


def environment() -> dict[str, str]:
    """Return this process' environment without what would change the programs' behaviour."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C"}


def create_database(port: int) -> None:
    """Create the database `DATABASE` in a running server if it is not there. Raise `LocalClusterError`."""
    try:
        connection = psycopg2.connect(
            host=LOOPBACK, port=port, user=SUPERUSER, dbname="postgres", connect_timeout=10, sslmode="disable"
        )
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if cursor.fetchone() is None:
                cursor.execute(f"CREATE DATABASE {DATABASE}")
    except psycopg2.Error as error:
        raise LocalClusterError(f"the database {DATABASE} cannot be created on port {port}: {error}") from error
