"""Running plans that read several partitions: stages, partial rows, and the merge query that makes the result.

Everything on the merge node happens in one transaction that is rolled back, and where stages are spread, on all shards:
no temporary table outlives its query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2

from shardpool.engines import Engines
from shardpool.errors import SchemaDrift
from shardpool.executor.results import RoutedResult
from shardpool.executor.scatter import Leases, Scatter, failure, leased
from shardpool.executor.stages import Job, Parameters
from shardpool.planner.moment import MOMENT
from shardpool.planner.plan import (
    ByShard,
    Computed,
    Concatenation,
    GatherPlan,
    MergeQuery,
    PartialRows,
    PushdownPlan,
    Stage,
    StagesPlan,
    union_all,
)
from shardpool.topology.shard_map import Topology

#: Object identifiers from here on are given by each server for itself (FirstNormalObjectId).
FIRST_USER_OID = 16384

ScatterPlan = PushdownPlan | StagesPlan | GatherPlan


class Merger:
    """Runs the plans that read several partitions."""

    def __init__(self, engines: Engines, threads: ThreadPoolExecutor, max_bytes: int, merge_node: str | None) -> None:
        self._engines = engines
        self._threads = threads
        self._max_bytes = max_bytes
        self._merge_node = merge_node

    def run(self, plan: ScatterPlan, parameters: Parameters, topology: Topology) -> RoutedResult:
        stages, then = _parts(plan)
        if not stages and isinstance(then, PushdownPlan):
            with leased(self._engines, list(then.by_shard)) as leases:
                if plan.moment:
                    parameters = _at_moment(parameters, leases.connection(min(then.by_shard)))
                return _concatenated(then, Scatter(self._threads, leases), parameters)
        shards = {shard for by_shard in _placed(stages, then) for shard in by_shard}
        everywhere = topology.shard_map.by_shard()
        node = self._node(stages, then, everywhere)
        partition = everywhere[node][0] if node in everywhere else None
        with leased(self._engines, list(shards | {node})) as leases:
            in_transaction = leases.shards if any(stage.spread for stage in stages) else [node]

            def work() -> RoutedResult:
                given = _at_moment(parameters, leases.connection(node)) if plan.moment else parameters
                job = Job(node, partition, leases, self._threads, given, self._max_bytes)
                for stage in stages:
                    job.make(stage)
                if isinstance(then, MergeQuery):
                    return job.fetch(then.sql)
                return _concatenated(then, Scatter(self._threads, leases), given)

            return _rolled_back(work, node, in_transaction, leases)

    def _node(self, stages: tuple[Stage, ...], then: PushdownPlan | MergeQuery, everywhere: ByShard) -> str:
        """The merge node. Partial columns take their types there: it must have partitions, best of those asked."""
        partial = any(isinstance(stage, PartialRows) for stage in stages)
        if self._merge_node is not None and (self._merge_node in everywhere or not partial):
            return self._merge_node
        asked = [set(by_shard) for by_shard in _placed(stages, then) if by_shard]
        return min(set.intersection(*asked) or asked[0]) if asked else min(everywhere)


def _parts(plan: ScatterPlan) -> tuple[tuple[Stage, ...], PushdownPlan | MergeQuery]:
    """Return the temporary tables that a plan needs, and what comes after them: a query, or a plain concatenation."""
    if isinstance(plan, GatherPlan):
        return plan.relations, MergeQuery(plan.sql)
    stages, then = (plan.stages, plan.then) if isinstance(plan, StagesPlan) else ((), plan)
    if isinstance(then, PushdownPlan) and isinstance(then.merge, MergeQuery):
        return (*stages, PartialRows(then.table, 0, then.partial, then.by_shard, then.appended)), then.merge
    return stages, then


def _placed(stages: Iterable[Stage], then: PushdownPlan | MergeQuery) -> list[ByShard]:
    found = [stage.by_shard for stage in stages if not isinstance(stage, Computed)]
    return found if isinstance(then, MergeQuery) else [*found, then.by_shard]


def _concatenated(plan: PushdownPlan, scatter: Scatter, parameters: Parameters) -> RoutedResult:
    assert isinstance(plan.merge, Concatenation)

    def fetch(shard: str, connection: Any) -> tuple[Any, list[Any]]:
        with connection.cursor() as cursor:
            cursor.execute(union_all(plan.partial, plan.by_shard[shard], plan.appended), parameters)
            return cursor.description, cursor.fetchall()

    try:
        for shard in plan.by_shard:
            scatter.start(shard, fetch)
        found = scatter.collect()
    except BaseException:
        scatter.stop()
        raise
    description = _common_description({shard: answer[0] for shard, answer in found.items()})
    rows = [row for shard in sorted(found) for row in found[shard][1]]
    first = _count(plan.merge.offset, parameters) or 0
    limit = _count(plan.merge.limit, parameters)
    rows = rows[first:] if limit is None else rows[first : first + limit]
    return RoutedResult(description, rows, len(rows))


def _at_moment(parameters: Parameters, connection: Any) -> Parameters:
    """Add the current time, which in a transaction stays the same."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.now()::text")
        return {**parameters, MOMENT: cursor.fetchone()[0]}


def _rolled_back(
    work: Callable[[], RoutedResult], node: str, in_transaction: Iterable[str], leases: Leases
) -> RoutedResult:
    """Do *work* in transactions that are rolled back; turn its error into that of a scatter."""
    for shard in in_transaction:
        leases.connection(shard).autocommit = False
    try:
        return work()
    except BaseException as error:
        if not isinstance(error, Exception):
            for shard in in_transaction:
                leases.abandon(shard)
            raise
        found = failure({node: error}, leases)
        raise found from (error if found is not error else error.__cause__)
    finally:
        for shard in in_transaction:
            _roll_back(leases.connection(shard), shard, leases)


def _roll_back(connection: Any, shard: str, leases: Leases) -> None:
    """End a transaction; a connection that cannot is not used again."""
    try:
        connection.rollback()
        connection.autocommit = True
    except psycopg2.Error:
        leases.abandon(shard)


def _common_description(descriptions: Mapping[str, Any]) -> Any:
    """Return the description of all shards' rows. Raise `SchemaDrift` if they differ: a schema change is half way.

    Types of users have another number on every server.
    """
    shapes = {
        shard: tuple((column[0], column[1] if column[1] < FIRST_USER_OID else None) for column in description)
        for shard, description in descriptions.items()
    }
    if len(set(shapes.values())) > 1:
        widths = ", ".join(f"{shard}: {len(shape)}" for shard, shape in sorted(shapes.items()))
        raise SchemaDrift(f"the shards answered with different columns ({widths}): is a schema change under way?")
    return next(iter(descriptions.values()))


def _count(value: int | str | None, parameters: Parameters) -> int | None:
    number = parameters[value] if isinstance(value, str) else value
    return None if number is None else int(number)
