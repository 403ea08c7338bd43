"""Queries: bind -> run, by the kind of plan, and again if a partition moved meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

import psycopg2
from sqlalchemy.exc import DBAPIError

from shardpool.engines import Engines
from shardpool.engines.translate import translate
from shardpool.errors import GatherTooLarge
from shardpool.executor.contradictions import remember, remembered
from shardpool.executor.current import CurrentTopology
from shardpool.executor.merge import Merger
from shardpool.executor.results import RoutedResult, StreamedResult
from shardpool.executor.sizes import TableSizes
from shardpool.executor.statements import MAX_RETRIES, Statements
from shardpool.executor.trace import Trace
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.plan import (
    ByShard,
    Concatenation,
    GatherPlan,
    Plan,
    PushdownPlan,
    ReferencePlan,
    SinglePlan,
    StagesPlan,
)
from shardpool.planner.refusals import refuse
from shardpool.topology.shard_map import Placement, Topology

T = TypeVar("T")

#: What CREATE TABLE AS answers for columns that a SELECT may have and a table may not: pseudo-types (invalid table
#: definition), no derived collation (indeterminate collation), and more than 1,600 of them (too many columns); a merge
#: query that knows no primary key to group by (grouping error); and columns of several grouping sets that can only be
#: sorted, or only hashed, and stand in one GROUP BY (feature not supported).
_NO_PUSHDOWN = ("42P16", "42P22", "54011", "42803", "0A000")
#: The class of data exceptions: a part of the query failed that one PostgreSQL might not have run at all.
_DATA_EXCEPTIONS = "22"
#: Classes of errors for which stages give way to gathering. What runs first may fail where one PostgreSQL would not
#: have run it at all (data exceptions, limits), or be no table (syntax and access rules).
_NO_STAGES = ("21", _DATA_EXCEPTIONS, "42", "54", "0A")


class Queries:
    """Answers compiled queries."""

    def __init__(
        self,
        engines: Engines,
        current: CurrentTopology,
        statements: Statements,
        merger: Merger,
        sizes: TableSizes,
    ) -> None:
        self._engines = engines
        self._current = current
        self._statements = statements
        self._merger = merger
        self._sizes = sizes

    def answer(
        self, compiled: CompiledQuery, parameters: Mapping[str, Any], trace: Trace | None = None
    ) -> RoutedResult:
        """Return all rows. What it took goes into *trace*."""
        trace = trace if trace is not None else Trace()

        def run(plan: Plan, topology: Topology) -> RoutedResult:
            trace.begin(plan)
            known = remembered(compiled, plan, parameters)
            if known is not None:
                return known
            result = self._run(plan, parameters, topology, trace)
            remember(compiled, plan, parameters, result)
            return result

        return self._tried(compiled, parameters, run)

    def stream(self, compiled: CompiledQuery, parameters: Mapping[str, Any]) -> StreamedResult:
        """Return the rows as they come, with memory for a few thousand."""

        def begin(plan: Plan, topology: Topology) -> StreamedResult:
            known = remembered(compiled, plan, parameters)
            if known is not None:
                return StreamedResult(known.description, _no_rows())
            rows = self._streamed(plan, parameters, topology)
            return StreamedResult(next(rows), rows)

        return self._tried(compiled, parameters, begin)

    def _tried(self, compiled: CompiledQuery, parameters: Mapping[str, Any], run: Callable[[Plan, Topology], T]) -> T:
        """Run a plan, another rung's where PostgreSQL refuses it, and again if a partition moved meanwhile."""
        retries = 0
        failed: dict[str, str] = {}
        first: DBAPIError | None = None
        while True:
            topology = self._current.value
            plan = compiled.bind(parameters, topology, self._sizes.statistics(parameters), failed)
            try:
                return run(plan, topology)
            except DBAPIError as error:
                rung = gives_way(plan, str(getattr(error.orig, "pgcode", None)))
                if rung is None:
                    raise
                failed[rung] = f"PostgreSQL refused it: {error.orig}".strip()
                first = first or error
            except GatherTooLarge:
                if first is not None:
                    raise first from None
                raise
            except psycopg2.Error as error:
                retries += 1
                if retries > MAX_RETRIES or not self._current.moved(topology, placements_of(plan, topology)):
                    if compiled.unknown_function is not None:
                        raise refuse("SP116", compiled.unknown_function) from error
                    raise translate(error, None, "", compiled.words, writes=False) from error

    def _run(self, plan: Plan, parameters: Mapping[str, Any], topology: Topology, trace: Trace) -> RoutedResult:
        if isinstance(plan, SinglePlan | ReferencePlan):
            return self._statements.on_shard(self._only_shard(plan), plan.sql, parameters)
        return self._merger.run(plan, parameters, topology, trace)

    def _streamed(self, plan: Plan, parameters: Mapping[str, Any], topology: Topology) -> Generator[Any]:
        if isinstance(plan, SinglePlan | ReferencePlan):
            by_shard = topology.shard_map.by_shard()
            shard = self._only_shard(plan)
            plan = PushdownPlan(plan.sql, {shard: by_shard[shard][:1]}, Concatenation(), True)
        yield from self._merger.stream(plan, parameters, topology)

    def _only_shard(self, plan: SinglePlan | ReferencePlan) -> str:
        return plan.placement.shard if isinstance(plan, SinglePlan) else self._any_shard()

    def _any_shard(self) -> str:
        """The shard for statements that any can answer: the one with the fewest connections in use."""
        stats = self._engines.stats()
        shards = self._current.value.shard_map.by_shard()
        return min(shards, key=lambda name: stats[name].in_use if name in stats else 0)


def _no_rows() -> Generator[Any]:
    yield from ()


def placements_of(plan: Plan, topology: Topology) -> list[Placement]:
    """Where the partitions of a plan were when it was made."""
    match plan:
        case SinglePlan():
            return [plan.placement]
        case ReferencePlan():
            return []
        case PushdownPlan():
            return _of(plan.by_shard, topology)
        case GatherPlan():
            return [placement for relation in plan.relations for placement in _of(relation.by_shard, topology)]
        case StagesPlan():
            return list(topology.shard_map.placements)


def gives_way(plan: Plan, code: str) -> str | None:
    """The rung that gives way to the next one after an error of the statement."""
    if isinstance(plan, PushdownPlan) and (code in _NO_PUSHDOWN or (plan.limited and code[:2] == _DATA_EXCEPTIONS)):
        return "pushdown"
    return "stages" if isinstance(plan, StagesPlan) and code[:2] in _NO_STAGES else None


def _of(by_shard: ByShard, topology: Topology) -> list[Placement]:
    return [topology.shard_map.placement(partition) for found in by_shard.values() for partition in found]
