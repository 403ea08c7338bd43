"""Find and end every PostgreSQL process of a directory; run as a script, the watchdog of one cluster.

The watchdog's standard input is a pipe that only the owner of the cluster can write to, so end of file means that the
owner is dead, however it died. One byte means that the owner has closed the cluster itself.

Processes are found by an argument that every server and initdb of a cluster carries: the setting
``shardpool.local_directory``. A ``postmaster.pid`` is written too late to find a server that is just starting.

Only the standard library is used: the script runs alone, without the package around it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MARK = "shardpool.local_directory"
IPC_RMID = 0


class Process(NamedTuple):
    pid: int
    parent: int
    command: str


def processes() -> list[Process]:
    """Return the visible processes of this machine, zombies and kernel threads left out."""
    if not Path("/proc/self/stat").exists():
        listing = subprocess.run(
            ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, errors="replace", check=True
        )
        rows = (line.split(maxsplit=2) for line in listing.stdout.splitlines())
        return [Process(int(row[0]), int(row[1]), row[2]) for row in rows if len(row) == 3]
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                command = Path(entry.path, "cmdline").read_bytes()
                status = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
                if command and status[0] not in b"ZX":
                    found.append(Process(int(entry.name), int(status[1]), os.fsdecode(command.replace(b"\0", b" "))))
    return found


def marker(directory: Path) -> str:
    """Return the setting that marks the processes of a server in `directory`, an absolute path."""
    return f"{MARK}={directory}/"


def find(directory: Path) -> list[int]:
    """Return the pids of the postmasters and initdbs in or below `directory`."""
    text = f" -c {marker(directory)}"
    return [process.pid for process in processes() if text in process.command]


def end(directory: Path, signals: Iterable[tuple[signal.Signals, float]]) -> None:
    """Send each signal, wait up to its seconds for the processes of `directory` to go, and crash what is left."""
    for number, seconds in signals:
        for pid in find(directory):
            send(pid, number)
            send(pid, signal.SIGCONT)  # it may have been frozen
        deadline = time.monotonic() + seconds
        while find(directory):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return
    for pid in find(directory):
        crash(pid)


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def crash(pid: int) -> None:
    """SIGKILL a postmaster and all of its children, and return when they are gone, after at most 10 seconds."""
    send(pid, signal.SIGSTOP)  # it must not start further children meanwhile
    family = {process.pid for process in processes() if pid in (process.pid, process.parent)}
    for member in family:
        send(member, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while family & {process.pid for process in processes()} and time.monotonic() < deadline:
        time.sleep(0.01)


def shared_memory_of(data: Path) -> int | None:
    """Return the id of the System V segment (a few bytes) that the server in `data` locks its directory with."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return int(lines[6].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def remove_shared_memory(segment: int | None) -> None:
    """Remove a segment that a crashed server left; a crash of the machine would have removed it too."""
    if segment is not None:
        ctypes.CDLL(None).shmctl(segment, IPC_RMID, None)


def reap(directory: Path, *, temporary: bool) -> None:
    """End everything that runs in `directory`; remove it when it is temporary."""
    quick = [(signal.SIGQUIT, 5.0)]
    segments = [shared_memory_of(pidfile.parent) for pidfile in directory.glob("*/data/postmaster.pid")]
    quiet, deadline = 0, time.monotonic() + 60
    while quiet < 2 and time.monotonic() < deadline:  # twice: the owner may have been starting one as it died
        running = find(directory)
        end(directory, quick if temporary else [(signal.SIGINT, 15.0), *quick])
        if temporary:
            shutil.rmtree(directory, ignore_errors=True)
        quiet = 0 if running or (temporary and directory.exists()) else quiet + 1
        time.sleep(0.1)
    if temporary:
        for segment in segments:
            remove_shared_memory(segment)


def main(directory: str, fate: str) -> None:
    """Wait for the end of the owner, then `reap`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not os.read(0, 1):
        reap(Path(directory), temporary=fate == "temporary")


if __name__ == "__main__":
    main(*sys.argv[1:])
