"""The coordinator's view of the work: which tasks wait, which run, and how many may run on one shard.

The chunks of a job are carried out by a crew, and so are the moves of a plan, each of which is on two shards.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Generic, TypeVar

from shardpool.errors import JobFailed

Task = TypeVar("Task")
Result = TypeVar("Result")

#: How often, in seconds, a coordinator that waits for its workers looks around.
INTERVAL = 0.2
#: So long, in seconds, a crew waits for a sign of life. All that a chunk waits for is bounded, and takes less.
SILENCE = 1800.0


class Crew(Generic[Task, Result]):
    """Runs *tasks* on *executor*: at most *workers* at once, *per_shard* of one shard, each when it *may_begin*.

    Within `SILENCE` seconds some task must come to its end, or be heard of (`hear`).
    """

    def __init__(
        self,
        executor: Executor,
        workers: int,
        per_shard: int,
        shards_of: Callable[[Task], tuple[str, ...]],
        tasks: Sequence[Task],
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        self._executor, self._workers, self._per_shard, self._shards_of = executor, workers, per_shard, shards_of
        self._may_begin = may_begin
        self._waiting = list(tasks)
        self._running: dict[Future[Result], Task] = {}
        self._heard = time.monotonic()

    def run(
        self,
        submit: Callable[[Executor, Task], Future[Result]],
        take: Callable[[Task, Result], object],
        go_on: Callable[[], bool] = lambda: True,
        interrupted: Callable[[Sequence[Task]], object] = lambda running: None,
    ) -> None:
        """Work until all is done or *go_on* returns false; in any case until nothing runs any more.

        *take* gets each result, in this thread. The first failure is raised when nothing runs any more; what runs is
        let go on to its end. If this thread was interrupted, *interrupted* is told what runs, until nothing does; of a
        second interrupt nobody is told, and nothing waited for.
        """
        failure: BaseException | None = None
        while self._running or (self._waiting and failure is None):
            if not self._running:
                self.hear()
            try:
                if failure is None and go_on():
                    self._submit(submit)
                elif not self._running:
                    break
                for task, outcome in self._finished():
                    self.hear()
                    error = outcome.exception()
                    if error is None:
                        take(task, outcome.result())
                    else:
                        failure = failure or TaskFailed(task, error)
                if time.monotonic() - self._heard > SILENCE:
                    self._running.clear()
                    raise JobFailed(f"nothing was heard of any worker for {SILENCE:g} s: has the executor lost them?")
                if _interrupts(failure):
                    interrupted(list(self._running.values()))
            except Exception as error:
                failure = failure or error
            except BaseException as error:
                if _interrupts(failure):
                    raise
                failure = error
        if failure is not None:
            raise failure

    def hear(self) -> None:
        """Note that a task gives a sign of life."""
        self._heard = time.monotonic()

    def _submit(self, submit: Callable[[Executor, Task], Future[Result]]) -> None:
        busy = Counter(shard for task in self._running.values() for shard in self._shards_of(task))
        kept = []
        for task in self._waiting:
            shards = self._shards_of(task)
            room = len(self._running) < self._workers and all(busy[shard] < self._per_shard for shard in shards)
            if room and self._may_begin():
                busy.update(shards)
                self._running[submit(self._executor, task)] = task
            else:
                kept.append(task)
        self._waiting = kept

    def _finished(self) -> list[tuple[Task, Future[Result]]]:
        if not self._running:  # all are held back
            time.sleep(INTERVAL)
        done, _ = wait(self._running, timeout=INTERVAL, return_when=FIRST_COMPLETED)
        return [(self._running.pop(future), future) for future in done]


def _interrupts(failure: BaseException | None) -> bool:
    return failure is not None and not isinstance(failure, Exception)


class TaskFailed(Exception):
    """A task raised `error`, which is also the cause."""

    def __init__(self, task: object, error: BaseException) -> None:
        super().__init__(f"{task}: {error}")
        self.error = error
        self.__cause__ = error
