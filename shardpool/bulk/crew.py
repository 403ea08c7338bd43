"""The coordinator's view of the work: which chunks wait, which run, and how many may run on one shard."""

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
#: So long no chunk may come to an end, in seconds. All that a chunk waits for is bounded, and takes less.
SILENCE = 1800.0


class Crew(Generic[Task, Result]):
    """Runs *tasks* on *executor*: at most *workers* at once, *per_shard* of one shard, each when it *may_begin*."""

    def __init__(
        self,
        executor: Executor,
        workers: int,
        per_shard: int,
        shard_of: Callable[[Task], str],
        tasks: Sequence[Task],
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        self._executor, self._workers, self._per_shard, self._shard_of = executor, workers, per_shard, shard_of
        self._may_begin = may_begin
        self._waiting = list(tasks)
        self._running: dict[Future[Result], tuple[Task, str]] = {}

    def run(
        self,
        submit: Callable[[Executor, Task], Future[Result]],
        take: Callable[[Task, Result], object],
        go_on: Callable[[], bool],
    ) -> None:
        """Work until all is done or *go_on* returns false; in any case until nothing runs any more.

        *take* gets each result, in this thread. The first failure is raised when nothing runs any more.
        """
        failure: BaseException | None = None
        heard = time.monotonic()
        while self._running or (self._waiting and failure is None):
            if not self._running:
                heard = time.monotonic()
            try:
                if failure is None and go_on():
                    self._submit(submit)
                elif not self._running:
                    break
                for task, outcome in self._finished():
                    heard = time.monotonic()
                    error = outcome.exception()
                    if error is None:
                        take(task, outcome.result())
                    else:
                        failure = failure or TaskFailed(task, error)
                if time.monotonic() - heard > SILENCE:
                    self._running.clear()
                    raise JobFailed(f"no chunk came to its end for {SILENCE:g} s: the executor has lost its workers?")
            except BaseException as error:  # also Ctrl-C: the chunks that run are let go on to their end
                failure = error
        if failure is not None:
            raise failure

    def _submit(self, submit: Callable[[Executor, Task], Future[Result]]) -> None:
        busy = Counter(shard for _, shard in self._running.values())
        kept = []
        for task in self._waiting:
            shard = self._shard_of(task)
            if len(self._running) < self._workers and busy[shard] < self._per_shard and self._may_begin():
                busy[shard] += 1
                self._running[submit(self._executor, task)] = task, shard
            else:
                kept.append(task)
        self._waiting = kept

    def _finished(self) -> list[tuple[Task, Future[Result]]]:
        if not self._running:  # all are held back
            time.sleep(INTERVAL)
        done, _ = wait(self._running, timeout=INTERVAL, return_when=FIRST_COMPLETED)
        return [(self._running.pop(future)[0], future) for future in done]


class TaskFailed(Exception):
    """A task raised `__cause__`."""

    def __init__(self, task: object, error: BaseException) -> None:
        super().__init__(f"{task}: {error}")
        self.__cause__ = error
