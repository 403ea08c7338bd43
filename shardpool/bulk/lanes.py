"""The lanes of a load: for each shard that has rows one connection, one transaction, and one thread that feeds it.

The caller's thread splits the source and submits work; each lane does its work in order and reports. Only so much work
may be without a report, hence a slow shard holds the reader up rather than filling the memory. The first failure is
everybody's: it is raised in the caller's thread at its next step. Leaving the block ends all threads, cancels what
still runs, rolls back what was not finished and gives the connections back, whatever happened.

The two sides share nothing but queues, whose operations are atomic: a Ctrl-C may interrupt the caller anywhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Self

from shardpool.bulk.lane import Lane
from shardpool.bulk.translate import without_prepared_transactions
from shardpool.engines.interrupt import cancel, cut

if TYPE_CHECKING:
    from shardpool.engines import Engines

#: Work that may wait or run in one lane, before `submit` waits.
QUEUE_LENGTH = 3

#: Seconds after which a statement that does not react to its cancellation loses its connection.
CANCEL_PATIENCE = 10.0

#: Seconds. A signal that arrives just before the interpreter blocks is noticed only when it wakes.
WAKE_INTERVAL = 0.5

Work = Callable[[Lane], None]


class _Worker:
    """The thread of a lane. It puts None, or an error and then ends, into *reports* for each work of its inbox."""

    def __init__(self, lane: Lane, reports: SimpleQueue[tuple[_Worker, BaseException | None]]) -> None:
        self.lane = lane
        self.inbox: SimpleQueue[Work | None] = SimpleQueue()
        self.unreported = 0  # counted by the caller's thread
        self.stopped = False
        self._reports = reports
        self.thread = threading.Thread(target=self._run, name=f"shardpool-load-{lane.shard}", daemon=True)

    def _run(self) -> None:
        while (work := self.inbox.get()) is not None and not self.stopped:
            try:
                work(self.lane)
            except BaseException as error:  # handed to the caller's thread, where it is raised
                self._reports.put((self, error))
                return
            self._reports.put((self, None))


class Lanes:
    """The lanes of one load, opened as their shards get rows. A context manager, for one thread."""

    def __init__(self, engines: Engines, load: str) -> None:
        self.load = load
        self.opened: dict[str, Lane] = {}
        #: Whether leaving the block rolls back. Not while the decision is the catalog's: then only it may say so.
        self.may_undo = True
        self._engines = engines
        self._workers: dict[str, _Worker] = {}
        self._reports: SimpleQueue[tuple[_Worker, BaseException | None]] = SimpleQueue()
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
        while worker.unreported >= QUEUE_LENGTH or not self._reports.empty():
            self._take_report()
        worker.unreported += 1
        worker.inbox.put(work)

    def drain(self) -> None:
        """Wait until all work is done. Raise the first failure of any lane."""
        while any(worker.unreported for worker in self._workers.values()):
            self._take_report()

    def stop(self) -> None:
        """End all threads; cancel the statements that still run. Idempotent."""
        for worker in self._workers.values():
            worker.stopped = True
            worker.inbox.put(None)
        patience = time.monotonic() + CANCEL_PATIENCE
        for worker in self._workers.values():
            while worker.thread.is_alive():
                # Again and again: a cancellation that arrives between two statements is lost.
                if worker.unreported and time.monotonic() < patience:
                    cancel(worker.lane.connection)
                elif worker.unreported:
                    cut(worker.lane.connection)
                worker.thread.join(0.1)

    def _take_report(self) -> None:
        try:
            worker, error = self._reports.get(timeout=WAKE_INTERVAL)
        except Empty:
            return
        worker.unreported -= 1
        if error is not None:
            raise error

    def _open(self, shard: str) -> _Worker:
        lane = Lane(self._engines, shard, self.load)
        self.opened[shard] = lane
        if lane.begin() == 0:
            self._unpreparable.append(shard)
        if self._unpreparable and len(self.opened) > 1:
            raise without_prepared_transactions(self._unpreparable[0])
        worker = self._workers[shard] = _Worker(lane, self._reports)
        worker.thread.start()
        return worker
