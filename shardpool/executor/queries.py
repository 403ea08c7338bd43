"""Queries: bind -> run, by the kind of plan, and again if a partition moved meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg2
from sqlalchemy.exc import DBAPIError

from shardpool.engines import Engines
from shardpool.engines.translate import translate
from shardpool.executor.current import CurrentTopology
from shardpool.executor.merge import Merger
from shardpool.executor.results import RoutedResult
from shardpool.executor.statements import MAX_RETRIES, Statements
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.plan import ByShard, GatherPlan, Plan, PushdownPlan, ReferencePlan, SinglePlan
from shardpool.planner.refusals import refuse
from shardpool.topology.shard_map import Placement, Topology

#: What CREATE TABLE AS answers for columns that a SELECT may have and a table may not: pseudo-types (invalid table
#: definition), no derived collation (indeterminate collation), and more than 1,600 of them (too many columns).
NO_PARTIAL_COLUMN = ("42P16", "42P22", "54011")


class Queries:
    """Answers compiled queries."""

    def __init__(self, engines: Engines, current: CurrentTopology, statements: Statements, merger: Merger) -> None:
        self._engines = engines
        self._current = current
        self._statements = statements
        self._merger = merger

    def answer(self, compiled: CompiledQuery, parameters: Mapping[str, Any]) -> RoutedResult:
        retries = 0
        no_pushdown = ""
        while True:
            topology = self._current.value
            plan = compiled.bind(parameters, topology, no_pushdown)
            try:
                return self._run(plan, parameters)
            except DBAPIError as error:
                code = getattr(error.orig, "pgcode", None)
                if not isinstance(plan, PushdownPlan) or code not in NO_PARTIAL_COLUMN:
                    raise
                no_pushdown = f"PostgreSQL has no such partial column: {error.orig}".strip()
            except psycopg2.Error as error:
                retries += 1
                if retries > MAX_RETRIES or not self._current.moved(topology, placements_of(plan, topology)):
                    if compiled.unknown_function is not None:
                        raise refuse("SP116", compiled.unknown_function) from error
                    raise translate(error, None, "", compiled.words, writes=False) from error

    def _run(self, plan: Plan, parameters: Mapping[str, Any]) -> RoutedResult:
        match plan:
            case SinglePlan():
                return self._statements.on_shard(plan.placement.shard, plan.sql, parameters)
            case ReferencePlan():
                return self._statements.on_shard(self._any_shard(), plan.sql, parameters)
            case PushdownPlan():
                return self._merger.pushdown(plan, parameters)
            case GatherPlan():
                return self._merger.gather(plan, parameters)

    def _any_shard(self) -> str:
        """The shard for statements that any can answer: the one with the fewest connections in use."""
        stats = self._engines.stats()
        shards = self._current.value.shard_map.by_shard()
        return min(shards, key=lambda name: stats[name].in_use if name in stats else 0)


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


def _of(by_shard: ByShard, topology: Topology) -> list[Placement]:
    return [topology.shard_map.placement(partition) for found in by_shard.values() for partition in found]
