"""Where chunks are worked off: any `concurrent.futures.Executor`. Threads, processes, both, or a Dask cluster."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import Any, ParamSpec, TypeVar

from shardpool.errors import JobRefused

NAMES = ("threads", "processes", "auto")
DASK = "dask://"
#: So long, in seconds, for a Dask scheduler to answer.
CONNECT_TIMEOUT = 5
#: So long, in seconds, work goes on before other processes are begun for it: what is done by then needs none.
SHORT = 0.3

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def open_executor(wanted: str | Executor, workers: int) -> Iterator[Executor]:
    """Open ``threads``, ``processes``, ``auto`` or ``dask://host:port``; an executor is used, and left open.

    Raise `JobRefused`.
    """
    if isinstance(wanted, Executor):
        yield wanted
        return
    check_name(wanted)
    name, others = wanted, min(workers, cores()) - 1
    if name == "threads" or (name == "auto" and not others):
        with ThreadPoolExecutor(workers, thread_name_prefix="shardpool-job") as threads:
            yield threads
    elif name == "processes":
        with _processes(workers) as processes:
            yield processes
    elif name == "auto":
        with _processes(others) as processes, Spread(workers, processes, others) as spread:
            yield spread
    else:
        with _dask(name.removeprefix(DASK)) as cluster:
            yield cluster


def check_sent(wanted: str | Executor, work: object) -> None:
    """Raise `JobRefused` if *work* is to be sent to processes and cannot be."""
    if wanted not in ("processes", "auto") and not isinstance(wanted, ProcessPoolExecutor):
        return
    try:
        pickle.dumps(work)
    except Exception as error:
        raise JobRefused(
            f"what worker processes need cannot be sent to them ({error}): a function that gives passwords must stand "
            "in a module, under its name; or take executor = 'threads'"
        ) from error


def check_name(name: str) -> None:
    """Raise `JobRefused` if there is no executor of that name."""
    if name not in NAMES and not name.startswith(DASK):
        raise JobRefused(f"executor {name!r} is none of {', '.join(NAMES)} and {DASK}host:port")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Spread(ThreadPoolExecutor):
    """Threads of this process, and *others* of *processes*, begun when there is more than a moment's work for them.

    Nothing waits for a process to begin. What cannot be sent to one is done here.
    """

    def __init__(self, workers: int, processes: ProcessPoolExecutor, others: int) -> None:
        super().__init__(workers, thread_name_prefix="shardpool-job")
        self._processes, self._others = processes, others
        self._idle = threading.Semaphore(0)
        self._began: float | None = None

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self._began = self._began or time.monotonic()
        if self._others and time.monotonic() - self._began > SHORT:
            for _ in range(self._others):
                # What is sent along lets the process import all that it will need.
                self._processes.submit(_begin, call, args, kwargs).add_done_callback(self._count)
            self._others = 0
        return super().submit(self._anywhere, call, *args, **kwargs)

    def _count(self, begun: Future[None]) -> None:
        if not begun.cancelled() and begun.exception() is None:
            self._idle.release()

    def _anywhere(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if not self._idle.acquire(blocking=False):
            return call(*args, **kwargs)
        try:
            return self._processes.submit(call, *args, **kwargs).result()
        finally:
            self._idle.release()


def _begin(*sent: object) -> None:
    """Do nothing, in a process that has begun."""


def _processes(number: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(number, get_context("spawn"), initializer=_belong_to_parent)


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client

        client_class: Any = Client
    except ImportError as error:
        raise JobRefused("dask:// needs the extra: pip install 'shardpool[dask]'") from error
    try:
        client = client_class(f"tcp://{address}", set_as_default=False, timeout=CONNECT_TIMEOUT)
    except OSError as error:
        raise JobRefused(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        # A chunk is no function of its arguments: the same one may have to be done again.
        yield client.get_executor(pure=False)


def _belong_to_parent() -> None:
    """Live as long as the coordinator does, and leave Ctrl-C to it: it says what becomes of the work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """Let this worker process end when its coordinator does, even by SIGKILL: nobody else would tell it."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), name="shardpool-parent", daemon=True).start()


def _watch(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
