"""Writes of one transaction on several shards at the same time.

They may wait for locks for long, and what they wait for may need threads to end. So they never queue for threads: who
does not find enough free ones visits the shards one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Semaphore
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg2
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_random

from shardpool.engines import Engines
from shardpool.engines.translate import is_stale, translate
from shardpool.errors import CrossShardDeadlock, ScatterFailed
from shardpool.executor.lent import LentPools
from shardpool.executor.results import RoutedResult
from shardpool.executor.scatter import leased, on_shards
from shardpool.planner.writes import Step, Steps
from shardpool.topology.shard_map import Placement

if TYPE_CHECKING:
    from shardpool.executor.branch import Branch
    from shardpool.executor.transaction import Transaction

T = TypeVar("T")

#: How long a write waits for another that takes the shards at once, before it goes on beside it, in seconds. If they
#: write the same rows, that may come to a deadlock, which is found out.
TURN = 0.25


class Hands:
    """Threads that are there at once, or not at all."""

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="shardpool-writes")
        self._free = Semaphore(count)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def taken(self, count: int) -> Iterator[ThreadPoolExecutor | None]:
        """Give a pool in which *count* tasks begin at once; None if there are not as many threads free."""
        taken = 0
        try:
            while taken < count and self._free.acquire(blocking=False):
                taken += 1
            yield self._threads if taken == count else None
        finally:
            if taken:
                self._free.release(taken)


def alone(transaction: Transaction, steps: Steps) -> bool:
    """Whether this is the only such write of several shards now. While there are others, it takes the shards in order;
    for one that takes them at once it waits a while on their first shard, where it holds nothing yet."""
    first = steps.steps[0].shard
    if not steps.table or all(step.shard == first for step in steps.steps):
        return False
    given = {"name": f"shardpool {transaction.topology.keyspace}.{steps.table}"}

    def enter(how: str) -> bool:
        sql = f"SELECT pg_try_advisory_xact_lock{how}(hashtextextended(%(name)s, 0))"
        return bool(transaction.on_shard(first, sql, given, [], False).scalar_one())

    if enter(""):
        return True
    waiting = Retrying(
        retry=retry_if_result(lambda entered: not entered),
        stop=stop_after_delay(TURN),
        wait=wait_random(0.005, 0.03),
        retry_error_callback=lambda state: None,
    )
    waiting(enter, "_shared")
    return False


def write_at_once(
    transaction: Transaction, steps: Steps, parameters: Mapping[str, Any], texts: bool
) -> list[RoutedResult]:
    """Carry *steps* out on all shards at the same time; return their results in order. Raises as `on_branches`."""
    by_shard: dict[str, list[Step]] = {}
    for step in steps.steps:
        by_shard.setdefault(step.shard, []).append(step)
    savepoints = transaction.savepoints

    def work(branch: Branch) -> list[RoutedResult]:
        own = by_shard[branch.shard]
        return [branch.run(step.sql, {**parameters, **step.parameters}, savepoints, texts) for step in own]

    placements = [step.placement for step in steps.steps if step.placement is not None]
    results = on_branches(transaction, dict.fromkeys(by_shard, work), placements, at_once=True)
    found = {shard: iter(those) for shard, those in results.items()}
    return [next(found[step.shard]) for step in steps.steps]


def on_branches(
    transaction: Transaction,
    works: Mapping[str, Callable[[Branch], T]],
    placements: Sequence[Placement],
    *,
    at_once: bool,
    writes: bool = True,
    locks: bool = False,
) -> dict[str, T]:
    """Write, lock rows, or read on several shards; return the results by shard.

    *at_once*: at the same time if there are threads.
    Else in the order of the shards' names, so that two such writes never wait for each other. *works* raise psycopg2's
    errors. Raise `sqlalchemy.exc` errors, `ShardUnavailable`, `StalePlacement`, `CrossShardDeadlock`.
    """

    def work(shard: str, connection: Any) -> T:
        branch = transaction.branch(shard)
        if writes or locks:
            transaction.note_effect(branch, writes)
        try:
            return transaction.waiting(branch, lambda: works[shard](branch))
        except psycopg2.Error as error:
            if is_stale(error):
                raise
            raise translate(error, branch.connection, shard, "", writes=False) from error

    try:
        with (
            transaction.around.hands.taken(len(works) if at_once else 0) as threads,
            leased(cast(Engines, LentPools(transaction, entered=False)), list(works)) as leases,
        ):
            if at_once and len(works) > 1 and threads is not None:
                results = on_shards(threads, leases, dict.fromkeys(works, work))
            else:
                results = {shard: work(shard, None) for shard in leases.shards}
    except psycopg2.Error as error:
        raise transaction.failed(error, None, "", placements) from error
    except CrossShardDeadlock as error:
        transaction.give_up(error)
        raise
    except BaseException as error:
        transaction.note_failure(error)
        if isinstance(error, ScatterFailed) and len(error.errors) == 1:
            raise next(iter(error.errors.values())) from error
        raise
    transaction.check_in_place(placements)
    return results
