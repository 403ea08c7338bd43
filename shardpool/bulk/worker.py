"""Working off one chunk: read, transform, write, and again if something was in the way.

A worker is a thread of the coordinator's process, another process, or one on another machine. It opens the ends of a
job once and keeps them (`serving`, `_opened`).
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

import psycopg2
from sqlalchemy.exc import DBAPIError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from shardpool.bulk.chunk import Opened, Sent, Stream, Tally, Ticket, Work
from shardpool.errors import BadRows, ChunkDone, LoadInDoubt, ShardpoolError, StalePlacement

#: SQLSTATEs of which another attempt may be free: deadlock, serialization, lock timeout, too many connections.
_PASSING = ("40", "53300", "55P03", "57P")


P = ParamSpec("P")
Result = TypeVar("Result")
Ends = TypeVar("Ends")


@dataclass(frozen=True)
class Patience:
    """How often a chunk is tried, and how long between (seconds, with jitter, doubling up to *longest*).

    A chunk beneath which partitions moved away is no failed one: it is tried for *moving* seconds, however often.
    """

    attempts: int = 8
    first: float = 0.2
    longest: float = 10.0
    moving: float = 60.0


PATIENCE = Patience()


def run_chunk(work: Work, ticket: Ticket, patience: Patience) -> Tally:
    """Bring a chunk to the sink, exactly once. Raise what the last attempt raised."""
    opened = _opened(work)

    def attempt() -> Tally:
        rows = opened.source.read(ticket.chunk)
        batches, left_out = opened.transform(rows)
        rejects = [*rows.rejects, *left_out]
        if len(rejects) > ticket.may_reject:
            raise BadRows(rejects[ticket.may_reject].source, rejects[ticket.may_reject].reason, ticket.may_reject)
        return opened.sink.write(ticket, batches, rejects)

    def recover(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, StalePlacement):
            opened.refresh()
        if isinstance(error, LoadInDoubt):
            opened.sink.settle(ticket)

    try:
        return retrying(patience, recover, attempt)
    except ChunkDone:
        return opened.sink.done(ticket.job)[ticket.chunk.number]


def cut_stream(work: Work, stream: Stream, chunk_rows: int, patience: Patience) -> list[tuple[str, ...]]:
    """Return the keys that cut a stream."""
    opened = _opened(work)
    return retrying(patience, lambda _: opened.refresh(), opened.source.bounds, stream, chunk_rows)


def retrying(
    patience: Patience,
    recover: Callable[[RetryCallState], None],
    work: Callable[P, Result],
    *given: P.args,
    **named: P.kwargs,
) -> Result:
    """Do *work*, again while the reason is a passing one; *recover* is called before each next attempt."""
    beside_moves = Retrying(
        retry=retry_if_exception_type(StalePlacement),
        stop=stop_after_delay(patience.moving),
        wait=wait_random_exponential(multiplier=0.02, max=1.0),
        before_sleep=recover,
        reraise=True,
    )
    beside_faults = Retrying(
        retry=retry_if_exception(is_passing) & retry_if_not_exception_type(StalePlacement),
        stop=stop_after_attempt(patience.attempts),
        wait=wait_random_exponential(multiplier=patience.first, max=patience.longest),
        before_sleep=recover,
        reraise=True,
    )
    return beside_moves(lambda: beside_faults(work, *given, **named))


def is_passing(error: BaseException) -> bool:
    """Whether another attempt may succeed, and the failed one surely wrote nothing, or its outcome can be found out."""
    if isinstance(error, ShardpoolError) and (error.retryable or isinstance(error, LoadInDoubt)):
        return True
    driver = error.orig if isinstance(error, DBAPIError) else error
    driver = driver if isinstance(driver, psycopg2.Error) else error.__cause__
    if not isinstance(driver, psycopg2.Error):
        return False
    code = driver.pgcode or ""
    return code.startswith(_PASSING) or (not code and isinstance(driver, psycopg2.OperationalError))


# -- the ends, once per process -------------------------------------------------------------------------------------

_lock = threading.Lock()
_served: dict[tuple[int, str], Any] = {}
_closing = ExitStack()


@contextmanager
def serving(work: Sent[Ends], opened: Ends) -> Iterator[None]:
    """Let the threads of this process use *opened* for *work*."""
    key = _key(work)
    _served[key] = opened
    try:
        yield
    finally:
        del _served[key]


@contextmanager
def at_hand(work: Sent[Ends]) -> Iterator[Ends]:
    """Yield what this process serves for *work*; where it serves nothing, open it for this once."""
    served = _served.get(_key(work))
    with work.open() if served is None else nullcontext(served) as opened:
        yield opened


def _key(work: Sent[object]) -> tuple[int, str]:
    # A forked process must not use its parent's connections.
    return os.getpid(), work.token


def _opened(work: Work) -> Opened:
    key = _key(work)
    with _lock:
        if key not in _served:
            if not _served:
                atexit.register(_closing.close)
            _served[key] = _closing.enter_context(work.open())
        return cast(Opened, _served[key])
