"""Running plans that read several partitions: stages, partial rows, and the merge query that makes the result.

Everything on the merge node happens in one transaction that is rolled back, and where stages are spread, on all shards:
no temporary table outlives its query.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from types import MappingProxyType
from typing import Any

import psycopg2

from shardpool.engines import Engines
from shardpool.errors import SchemaDrift
from shardpool.executor.lent import APART
from shardpool.executor.results import RoutedResult
from shardpool.executor.scatter import Leases, failure, frugal, leased
from shardpool.executor.stages import Job, Parameters
from shardpool.executor.texts import FIRST_USER_OID, open_cursor
from shardpool.executor.trace import Trace
from shardpool.planner.moment import MOMENT
from shardpool.planner.plan import (
    READ_ONLY,
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

#: Rows that a stream fetches at a time, from each shard.
STREAM_ROWS = 2000

#: How long a merge node apart waits for a lock, in milliseconds: the transaction beside it may have it for itself.
LOCK_WAIT_APART = 500

ScatterPlan = PushdownPlan | StagesPlan | GatherPlan


class Merger:
    """Runs the plans that read several partitions.

    *apart*: the merge node is not one of the connections that read, but one more to this shard. *texts*: the values of
    the result are as the server spells them. *held*: the partial rows, where they were read before, by shard.
    """

    def __init__(
        self,
        engines: Engines,
        threads: ThreadPoolExecutor,
        max_bytes: int,
        merge_node: str | None,
        apart: str | None = None,
        texts: bool = False,
        held: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        self._texts = texts
        self._held = held
        self._engines = engines
        self._threads = threads
        self._max_bytes = max_bytes
        self._merge_node = merge_node
        self._apart = apart

    def run(self, plan: ScatterPlan, parameters: Parameters, topology: Topology, trace: Trace) -> RoutedResult:
        """Return all rows."""
        with (
            self._running(plan, parameters, topology, trace, stream=False) as (job, then),
            trace.step("result") as step,
        ):
            if isinstance(then, MergeQuery):
                result = job.fetch(then.sql)
            else:
                found = self._fetched(then, job)
                assert isinstance(then.merge, Concatenation)
                rows = list(
                    cut((row for shard in sorted(found) for row in found[shard][1]), then.merge, job.parameters)
                )
                result = RoutedResult(common_description(found), rows, len(rows))
            step.rows = len(result.rows)
            return result

    def stream(self, plan: ScatterPlan, parameters: Parameters, topology: Topology) -> Iterator[Any]:
        """Yield the description of the rows, then row after row, `STREAM_ROWS` of each shard in memory."""
        with self._running(plan, parameters, topology, Trace(), stream=True) as (job, then):
            if isinstance(then, MergeQuery):
                cursors = {job.node: job.cursor(job.node, then.sql)}
                found = {job.node: _begun(cursors[job.node])}
            else:
                cursors, found = self._opened(then, job)
            yield common_description(found)
            rows = (row for shard in sorted(found) for row in _all_rows(found[shard][1], cursors[shard]))
            if isinstance(then, MergeQuery):
                yield from rows
            else:
                assert isinstance(then.merge, Concatenation)
                yield from cut(rows, then.merge, job.parameters)

    @contextmanager
    def _running(
        self, plan: ScatterPlan, parameters: Parameters, topology: Topology, trace: Trace, *, stream: bool
    ) -> Iterator[tuple[Job, PushdownPlan | MergeQuery]]:
        """Make the stages; give what is left to do, and the job that does it."""
        stages, then = _parts(plan)
        everywhere = topology.shard_map.by_shard()
        node = self._node(stages, then, everywhere)
        shards = {shard for by_shard in _placed(stages, then) for shard in by_shard} | ({node} if stages else set())
        with leased(self._engines, list(shards or {node})) as leases:
            everywhere_too = stream or any(stage.spread for stage in stages)
            in_transaction = leases.shards if everywhere_too else [node] if stages else []
            with _rolled_back(node, in_transaction, leases):
                clock = leases.connection(node if stages else leases.shards[0])
                given = _at_moment(parameters, clock) if plan.moment else parameters
                if not isinstance(plan, GatherPlan):
                    given = {**given, **plan.lists}
                partitions = everywhere.get(self._apart or node)
                partition = partitions[0] if partitions else None
                apart = self._apart is not None
                job = Job(
                    node, partition, leases, self._threads, given, self._max_bytes, self._texts, apart, self._held
                )
                if apart and stages:
                    job.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_APART}")
                for stage in stages:
                    with trace.step(_title(stage)) as step:
                        before = job.bytes
                        step.rows = job.make(stage)
                        step.bytes = job.bytes - before
                if isinstance(then, MergeQuery) and then.sql.startswith(READ_ONLY):
                    job.protect(stages)
                yield job, then

    def _node(self, stages: tuple[Stage, ...], then: PushdownPlan | MergeQuery, everywhere: ByShard) -> str:
        """The merge node. Partial columns take their types there: it must have partitions, best of those asked."""
        if self._apart is not None:
            return APART
        partial = any(isinstance(stage, PartialRows) for stage in stages)
        if self._merge_node is not None and (self._merge_node in everywhere or not partial):
            return self._merge_node
        asked = [set(by_shard) for by_shard in _placed(stages, then) if by_shard]
        return min(set.intersection(*asked) or asked[0]) if asked else min(everywhere)

    def _fetched(self, plan: PushdownPlan, job: Job) -> dict[str, tuple[Any, list[Any]]]:
        def fetch(shard: str, connection: Any) -> tuple[Any, list[Any]]:
            with open_cursor(connection, job.texts) as cursor:
                statement = union_all(plan.partial, plan.by_shard[shard], plan.appended)
                cursor.execute(frugal(statement, len(plan.by_shard[shard])), job.parameters)
                return cursor.description, cursor.fetchall()

        return job.scatter(dict.fromkeys(plan.by_shard, fetch))

    def _opened(self, plan: PushdownPlan, job: Job) -> tuple[dict[str, Any], dict[str, tuple[Any, list[Any]]]]:
        """A cursor on each shard, with its first rows."""
        cursors: dict[str, Any] = {}

        def open_one(shard: str, connection: Any) -> tuple[Any, list[Any]]:
            cursors[shard] = job.cursor(shard, union_all(plan.partial, plan.by_shard[shard], plan.appended))
            return _begun(cursors[shard])

        return cursors, job.scatter(dict.fromkeys(plan.by_shard, open_one))


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


def _title(stage: Stage) -> str:
    match stage:
        case PartialRows():
            return f"collect {stage.name}"
        case Computed():
            return f"compute {stage.name}"
        case _:
            return f"gather {stage.table}"


def cut(rows: Iterator[Any], plan: Concatenation, parameters: Parameters) -> Iterator[Any]:
    """Apply the LIMIT and OFFSET of a concatenation."""
    first = _count(plan.offset, parameters) or 0
    limit = _count(plan.limit, parameters)
    return islice(rows, first, None if limit is None else first + limit)


def _begun(cursor: Any) -> tuple[Any, list[Any]]:
    """The description, which the driver has only after the first rows, and those."""
    rows = cursor.fetchmany(STREAM_ROWS)
    return cursor.description, rows


def _all_rows(first: list[Any], cursor: Any) -> Iterator[Any]:
    rows = first
    while rows:
        yield from rows
        rows = cursor.fetchmany(STREAM_ROWS)


def _at_moment(parameters: Parameters, connection: Any) -> Parameters:
    """Add the current time, which in a transaction stays the same."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.now()::text")
        return {**parameters, MOMENT: cursor.fetchone()[0]}


@contextmanager
def _rolled_back(node: str, in_transaction: list[str], leases: Leases) -> Iterator[None]:
    """Transactions that are rolled back; an error inside of them is turned into that of a scatter."""
    for shard in in_transaction:
        leases.connection(shard).autocommit = False
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception | GeneratorExit):
            for shard in in_transaction:
                leases.abandon(shard)
        if not in_transaction or not isinstance(error, Exception):
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


def common_description(found: Mapping[str, tuple[Any, list[Any]]]) -> Any:
    """Return the description of all shards' rows. Raise `SchemaDrift` if they differ: a schema change is half way.

    Types of users have another number on every server.
    """
    shapes = {
        shard: tuple((column[0], column[1] if column[1] < FIRST_USER_OID else None) for column in description)
        for shard, (description, _) in found.items()
    }
    if len(set(shapes.values())) > 1:
        widths = ", ".join(f"{shard}: {len(shape)}" for shard, shape in sorted(shapes.items()))
        raise SchemaDrift(f"the shards answered with different columns ({widths}): is a schema change under way?")
    return next(description for description, _ in found.values())


def _count(value: int | str | None, parameters: Parameters) -> int | None:
    number = parameters[value] if isinstance(value, str) else value
    return None if number is None else int(number)
