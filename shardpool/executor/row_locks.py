"""Row locks over several shards, held by a transaction until all that it wrote is committed.

The shards are taken in the order of their names, as by writes, so that two such statements never wait for each other on
two shards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from shardpool.errors import GatherTooLarge, StalePlacement
from shardpool.executor.at_once import on_branches
from shardpool.executor.merge import common_description, cut
from shardpool.executor.queries import placements_of
from shardpool.executor.results import RoutedResult
from shardpool.planner.moment import MOMENT
from shardpool.planner.plan import Concatenation, PushdownPlan, union_all

if TYPE_CHECKING:
    from shardpool.executor.branch import Branch
    from shardpool.executor.transaction import Transaction

T = TypeVar("T")
Parameters = Mapping[str, Any]


def locked_rows(transaction: Transaction, plan: PushdownPlan, parameters: Parameters, texts: bool) -> RoutedResult:
    """Lock what a plan of rows as they come locks, and return them. *texts*: values as the server spells them."""
    assert isinstance(plan.merge, Concatenation)
    given = _given(transaction, plan, parameters)

    def read(branch: Branch, query: str) -> RoutedResult:
        return branch.run(query, given, transaction.savepoints, texts)

    results = _on_each(transaction, plan, read)
    found = {shard: (result.description, result.rows) for shard, result in results.items()}
    rows = list(cut((row for _, own in found.values() for row in own), plan.merge, given))
    return RoutedResult(common_description(found), rows, len(rows))


def locked_copies(transaction: Transaction, plan: PushdownPlan, parameters: Parameters) -> dict[str, bytes]:
    """Lock what a plan with a merge query locks; return the partial rows of each shard, in binary COPY format.

    Raise `GatherTooLarge`.
    """
    given = _given(transaction, plan, parameters)

    def read(branch: Branch, query: str) -> bytes:
        rows = _Bounded(transaction.around.max_gather_bytes)
        branch.enter(transaction.savepoints)
        branch.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)", rows, given)
        return b"".join(rows.messages)

    return _on_each(transaction, plan, read)


def locked_everywhere(transaction: Transaction, sql: str, parameters: Parameters, texts: bool) -> RoutedResult:
    """Lock rows of reference tables, which are the same on all shards, on each; return those of one."""

    def read(branch: Branch) -> RoutedResult:
        return branch.run(sql, parameters, transaction.savepoints, texts)

    results = on_branches(
        transaction,
        dict.fromkeys(transaction.topology.shard_map.shards, read),
        [],
        at_once=False,
        writes=False,
        locks=True,
    )
    check_all_shards(transaction)
    return results[min(results)]


def check_all_shards(transaction: Transaction) -> None:
    """All copies of a reference table are locked. Raise `StalePlacement` if there is one on a shard of today's."""
    if not transaction.around.current.has_all_shards(transaction.topology):
        raise transaction.give_up(StalePlacement("a shard joined or left since the transaction began: run it again"))


class _Bounded:
    """The file of a COPY TO: one message per row, up to so many bytes in all."""

    def __init__(self, limit: int) -> None:
        self.messages: list[bytes] = []
        self._limit = limit
        self._size = 0

    def write(self, message: bytes) -> None:
        self._size += len(message)
        if self._size > self._limit:
            raise GatherTooLarge(self._size, self._limit)
        self.messages.append(message)


def _on_each(transaction: Transaction, plan: PushdownPlan, read: Callable[[Branch, str], T]) -> dict[str, T]:
    """Have the plan's query read on each of its shards, in the order of their names."""
    queries = {shard: union_all(plan.partial, its, plan.appended) for shard, its in sorted(plan.by_shard.items())}
    works = dict.fromkeys(queries, lambda branch: read(branch, queries[branch.shard]))
    placements = placements_of(plan, transaction.topology)
    return on_branches(transaction, works, placements, at_once=False, writes=False, locks=True)


def _given(transaction: Transaction, plan: PushdownPlan, parameters: Parameters) -> Parameters:
    if not plan.moment:
        return {**parameters, **plan.lists}
    return {**parameters, **plan.lists, MOMENT: transaction.now(min(plan.by_shard))}
