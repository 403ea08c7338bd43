"""The lanes of a load: for each shard that has rows one connection, one transaction, and one thread that feeds it.

The caller's thread splits the source and submits work; each lane does its work in order. A lane's queue is bounded, so
that a slow shard holds the reader up rather than filling the memory. The first failure is everybody's: it is raised in
the caller's thread at its next step. Leaving the block ends all threads, cancels what still runs, rolls back what was
not finished and gives the connections back, whatever happened.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from shardpool.bulk.lane import Lane
from shardpool.bulk.translate import without_prepared_transactions

if TYPE_CHECKING:
    from shardpool.engines import Engines

#: Work that may wait or run in one lane, before `submit` waits.
QUEUE_LENGTH = 3

#: Seconds after which a statement that does not react to its cancellation loses its connection.
CANCEL_PATIENCE = 10.0

Work = Callable[[Lane], None]


class _Worker:
    """The thread of a lane and its queue. The head of `pending` is the work that runs, or is next."""

    def __init__(self, lane: Lane, run: Callable[[_Worker], None]) -> None:
        self.lane = lane
        self.pending: deque[Work] = deque()
        self.thread = threading.Thread(target=run, args=(self,), name=f"shardpool-load-{lane.shard}", daemon=True)


class Lanes:
    """The lanes of one load, opened as their shards get rows. A context manager."""

    def __init__(self, engines: Engines, load: str) -> None:
        self.load = load
        self.opened: dict[str, Lane] = {}
        #: Whether leaving the block rolls back. Not while the decision is the catalog's: then only it may say so.
        self.may_undo = True
        self._engines = engines
        self._workers: dict[str, _Worker] = {}
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._stopped = False
        self._unpreparable: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for lane in self.opened.values():
            if self.may_undo and not lane.finished:
                lane.undo()
            lane.release()

    def submit(self, shard: str, work: Work) -> None:
        """Give *work* to a shard's lane; wait while its queue is full. Raise the first failure of any lane."""
        worker = self._workers.get(shard) or self._open(shard)
        with self._changed:
            while len(worker.pending) >= QUEUE_LENGTH and self._failure is None:
                self._changed.wait()
            self._raise_failure()
            worker.pending.append(work)
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until all work is done. Raise the first failure of any lane."""
        with self._changed:
            while self._failure is None and any(worker.pending for worker in self._workers.values()):
                self._changed.wait()
            self._raise_failure()

    def stop(self) -> None:
        """End all threads; cancel the statements that still run. Idempotent."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        patience = time.monotonic() + CANCEL_PATIENCE
        for worker in self._workers.values():
            while worker.thread.is_alive():
                # Again and again: a cancellation that arrives between two statements is lost.
                if worker.pending and time.monotonic() < patience:
                    worker.lane.cancel()
                elif worker.pending:
                    worker.lane.sever()
                worker.thread.join(0.1)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _open(self, shard: str) -> _Worker:
        lane = Lane(self._engines, shard, self.load)
        self.opened[shard] = lane
        if lane.begin() == 0:
            self._unpreparable.append(shard)
        if self._unpreparable and len(self.opened) > 1:
            raise without_prepared_transactions(self._unpreparable[0])
        worker = self._workers[shard] = _Worker(lane, self._run)
        worker.thread.start()
        return worker

    def _run(self, worker: _Worker) -> None:
        while True:
            with self._changed:
                while not worker.pending and not self._stopped:
                    self._changed.wait()
                if self._stopped or self._failure is not None:
                    return
                work = worker.pending[0]
            try:
                work(worker.lane)
            except BaseException as error:  # handed to the caller's thread, where it is raised
                self._fail(error)
                return
            with self._changed:
                worker.pending.popleft()
                self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
            self._changed.notify_all()
