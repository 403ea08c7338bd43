"""Where chunks are worked off: any `concurrent.futures.Executor`. Threads by default, processes, or a Dask cluster."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import Any

from shardpool.errors import JobRefused

DASK = "dask://"
#: So long, in seconds, for a Dask scheduler to answer.
CONNECT_TIMEOUT = 5


@contextmanager
def open_executor(name: str, workers: int) -> Iterator[Executor]:
    """Open the executor *name*: ``threads``, ``processes`` or ``dask://host:port``. Raise `JobRefused`."""
    if name == "threads":
        with ThreadPoolExecutor(workers, thread_name_prefix="shardpool-job") as threads:
            yield threads
    elif name == "processes":
        context = get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=end_with_parent) as processes:
            yield processes
    elif name.startswith(DASK):
        with _dask(name.removeprefix(DASK)) as cluster:
            yield cluster
    else:
        raise JobRefused(f"executor {name!r} is none of threads, processes and dask://host:port")


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


def end_with_parent() -> None:
    """Let this worker process end when its coordinator does, even by SIGKILL: nobody else would tell it."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), name="shardpool-parent", daemon=True).start()


def _watch(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
