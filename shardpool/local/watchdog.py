"""The owner's side of the watchdog process (see `reaper`), and the lock on a cluster directory.

Owner and watchdog both hold the lock, so a directory is free again only after the watchdog of a dead owner has ended
its servers. A fork()ed child keeps neither the pipe nor the lock: the cluster lives as long as its owner, no longer.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

from shardpool.errors import LocalClusterError
from shardpool.local import reaper

LOCK_TIMEOUT = 30.0

_forking = threading.Lock()
_armed: weakref.WeakSet[Watchdog] = weakref.WeakSet()


class Watchdog:
    """A process that ends the servers of `directory` when this process has died without `dismiss`."""

    def __init__(self, directory: Path, *, temporary: bool) -> None:
        """Lock the directory and start the process. Raise `LocalClusterError` if another cluster keeps the lock.

        A temporary directory need not be there yet: its name is nobody else's, so there is nothing to lock, and whoever
        makes it after this leaves nothing behind when killed in between.
        """
        self.directory = directory
        if any(watchdog.directory == directory for watchdog in _armed):
            raise LocalClusterError(f"this process has a LocalCluster on {directory} already: close it first")
        self._descriptors: list[int] = []
        read_end = self._arm(None if temporary else directory / "cluster.lock")
        script = [sys.executable, "-I", "-S", reaper.__file__, str(directory), "temporary" if temporary else "kept"]
        try:
            self._process = subprocess.Popen(
                script,
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=self._descriptors[1:],  # the lock, if there is one
                start_new_session=True,  # Ctrl-C in a terminal is for the owner
                cwd="/",
            )
        except BaseException:
            self.forget()
            raise
        finally:
            os.close(read_end)

    def _arm(self, lockfile: Path | None) -> int:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            with _forking:  # a child that is forked here would keep what is not in `_armed` yet
                locks = [] if lockfile is None else [os.open(lockfile, os.O_RDWR | os.O_CREAT, 0o600)]
                if all(_locked(lock) for lock in locks):
                    read_end, write_end = os.pipe()
                    self._descriptors = [write_end, *locks]
                    _armed.add(self)
                    return read_end
                for lock in locks:
                    os.close(lock)
            if time.monotonic() > deadline:
                raise LocalClusterError(f"{self.directory} is in use by a LocalCluster of another process")
            time.sleep(0.05)

    def dismiss(self) -> None:
        """Tell the process that the cluster was closed, and wait for it (10 seconds at most)."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._descriptors[0], b".")
        self.forget()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)

    def forget(self) -> None:
        """Close this process' ends of the pipe and the lock."""
        _armed.discard(self)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _after_fork_in_child() -> None:
    _forking.release()
    for watchdog in list(_armed):
        watchdog.forget()


os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_after_fork_in_child)
