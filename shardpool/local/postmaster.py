"""Start a postmaster and wait until it is ready."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

from shardpool.errors import LocalClusterError
from shardpool.local import reaper
from shardpool.local.binaries import account_for, programs, run_as
from shardpool.local.initdb import environment, path_for

START_TIMEOUT = 60.0


def launch(directory: Path, version: int, log: Path) -> subprocess.Popen[bytes] | None:
    """Start the server in `directory`, configured already, and return it when it accepts connections.

    Return None if its port is taken. Raise `LocalClusterError` with the end of the log if it fails otherwise.
    """
    data = directory / "data"
    _drop_pidfile_of_another_process(data)
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        begin = log.stat().st_size if log.exists() else 0
        process = _spawn(directory, data, version, log)
        try:
            while process.poll() is None:
                if _ready(data, process.pid):
                    return process
                if time.monotonic() > deadline:
                    raise _failure(directory, log, begin, f"was not ready after {START_TIMEOUT:.0f} seconds")
                time.sleep(0.01)
        except BaseException:
            reaper.crash(process.pid)
            process.wait(10)
            raise
        said = log.read_bytes()[begin:]
        if b"could not create any TCP/IP sockets" in said:
            return None
        if b"pre-existing shared memory block" not in said or time.monotonic() > deadline:
            raise _failure(directory, log, begin, f"ended with code {process.returncode}")
        time.sleep(0.05)  # children of a postmaster that crashed are about to notice it


def _spawn(directory: Path, data: Path, version: int, log: Path) -> subprocess.Popen[bytes]:
    account = account_for(data)
    command = [str(programs(version, account) / "postgres"), "-D", path_for(account, data)]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, "-c", reaper.marker(directory)],
            cwd=data,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **run_as(account),
        )


def _ready(data: Path, pid: int) -> bool:
    lines = _pidfile(data)
    return len(lines) > 7 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def _pidfile(data: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return (data / "postmaster.pid").read_text().splitlines()
    return []


def _drop_pidfile_of_another_process(data: Path) -> None:
    """Remove a crashed server's pid file if its pid belongs to another program now, as in a restarted container.

    PostgreSQL would take that program for a postmaster. Its second interlock, shared memory, is still there.
    """
    pid = next(iter(_pidfile(data)), "").strip()
    if any(str(process.pid) == pid and "postgres" not in process.command for process in reaper.processes()):
        (data / "postmaster.pid").unlink(missing_ok=True)


def _failure(directory: Path, log: Path, begin: int, what: str) -> LocalClusterError:
    tail = log.read_bytes()[begin:][-2000:].decode(errors="replace").strip()
    return LocalClusterError(f"the server in {directory} {what}; the end of its log:\n{tail}")
