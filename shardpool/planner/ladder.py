"""The ladder: from a statement to a plan, cheapest rung first.

`compile_query` does once per statement and schema what does not depend on parameters; `CompiledQuery.bind` then chooses
the rung and the partitions for the parameters of one call and the shard map of the moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shardpool.planner.ast import is_a, kind
from shardpool.planner.gather import Source, plan_sources
from shardpool.planner.pins import Pin, find_pins, partitions_of
from shardpool.planner.plan import GatherPlan, Plan, PushdownPlan, Reason, ReferencePlan, Relation, SinglePlan
from shardpool.planner.pushdown import Pushdown, plan_pushdown
from shardpool.planner.refusals import refuse
from shardpool.planner.safety import check_query, check_session, moving_parameters
from shardpool.planner.scopes import Analysis, analyse
from shardpool.planner.statement import Statement
from shardpool.planner.words import Template, in_partition, over_gathered
from shardpool.topology.shard_map import Topology


def compile_query(statement: Statement, topology: Topology) -> CompiledQuery:
    """Analyse a SELECT. Raise `InvalidSQL`, `UnknownTable` or `UnsupportedStatement`."""
    if not is_a(statement.node, "select_stmt"):
        raise refuse("SP101", kind(statement.node).removesuffix("_stmt").replace("_", " ").upper() or "nothing")
    select = statement.node.select_stmt
    analysis = analyse(select, topology)
    unknown = check_session(select, topology)
    check_query(select, topology)
    words = over_gathered(statement, topology)
    if unknown is not None:
        # It may write, and what it writes would be lost with the merge transaction, or be on one shard only.
        words = "SET TRANSACTION READ ONLY; " + words
    if not any(item.table is not None and item.table.sharded for item in analysis.occurrences):
        return CompiledQuery(statement, analysis, (), words, (), "", (), unknown)
    return CompiledQuery(
        statement,
        analysis,
        find_pins(analysis, statement),
        words,
        in_partition(statement, topology, [item.node for item in analysis.occurrences]),
        _pushdown(analysis, statement, topology, unknown),
        plan_sources(analysis, statement, topology, unknown),
        unknown,
    )


def _pushdown(analysis: Analysis, statement: Statement, topology: Topology, unknown: str | None) -> Pushdown | str:
    if analysis.locking:
        return "row locks"
    if unknown is not None:
        return f"function {unknown}() may read anything"
    return plan_pushdown(statement.node.select_stmt, analysis, statement, topology)


@dataclass(frozen=True)
class CompiledQuery:
    """A SELECT, analysed. `pushdown` is a reason where there is no such plan; without `sources` nothing is sharded."""

    statement: Statement
    analysis: Analysis
    pins: tuple[Pin | None, ...]
    words: str
    template: Template
    pushdown: Pushdown | str
    sources: tuple[Source, ...]
    unknown_function: str | None

    def bind(self, parameters: Mapping[str, Any], topology: Topology, no_pushdown: str = "") -> Plan:
        """Choose a rung. Raise `UnsupportedStatement` for row locks over several partitions.

        *no_pushdown* is the reason why the rung pushdown was tried and is not to be taken.
        """
        if not self.sources:
            return ReferencePlan(self.words)
        pinned = [
            partitions_of(self.pins, index, item, parameters, topology)
            for index, item in enumerate(self.analysis.occurrences)
        ]
        single = self._single(pinned, topology)
        if isinstance(single, SinglePlan):
            return single
        if self.analysis.locking:
            raise refuse("SP104", self.analysis.locking)
        reasons = [single, Reason("reference", "the statement reads sharded tables")]
        if no_pushdown or isinstance(self.pushdown, str):
            reasons.append(Reason("pushdown", no_pushdown or str(self.pushdown)))
        elif not all(_plain_limit(parameters.get(name)) for name in self.pushdown.limits):
            reasons.append(Reason("pushdown", "LIMIT or OFFSET is not a plain number"))
        elif moving_parameters(parameters):
            reasons.append(Reason("pushdown", "a parameter may mean the current time"))
        else:
            found = _union(pinned[self.analysis.occurrences.index(root)] for root in self.pushdown.roots)
            by_shard, pruned = topology.shard_map.by_shard(found), found is not None
            return PushdownPlan(self.pushdown.partial, by_shard, self.pushdown.merge, pruned, tuple(reasons))
        return self._gather(pinned, parameters, topology, tuple(reasons))

    def _single(self, pinned: list[frozenset[int] | None], topology: Topology) -> SinglePlan | Reason:
        if self.unknown_function is not None:
            return Reason("single", f"function {self.unknown_function}() may read other partitions")
        found: set[int] = set()
        for item, partitions in zip(self.analysis.occurrences, pinned, strict=True):
            if item.table is not None and item.table.sharded:
                if partitions is None:
                    return Reason("single", f"{item.alias} is not pinned to a partition key")
                found |= partitions
        if len(found) != 1:
            return Reason("single", f"the keys lie in {len(found)} partitions")
        placement = topology.shard_map.placement(found.pop())
        return SinglePlan(placement, topology.qualifiers[placement.partition.id].join(self.template))

    def _gather(
        self,
        pinned: list[frozenset[int] | None],
        parameters: Mapping[str, Any],
        topology: Topology,
        reasons: tuple[Reason, ...],
    ) -> GatherPlan:
        filters = not moving_parameters(parameters)
        # Selecting columns that depend on a grouped primary key needs that key.
        grouped = any(scope.select.group_clause for scope in self.analysis.scopes)
        relations = []
        pruned = False
        for source in self.sources:
            # What an unknown function reads is not restricted by the statement's own conditions.
            partitions = None if self.unknown_function else _union(pinned[index] for index in source.occurrences)
            pruned = pruned or partitions is not None
            names = {column.name for column in source.columns}
            key = source.table.primary_key
            relations.append(
                Relation(
                    source.table.name,
                    source.columns,
                    key if grouped and names.issuperset(key) else (),
                    source.filtered if filters else source.unfiltered,
                    topology.shard_map.by_shard(partitions),
                )
            )
        return GatherPlan(tuple(relations), self.words, pruned, reasons)


def _plain_limit(value: object) -> bool:
    return value is None or (type(value) is int and 0 <= value < 1 << 62)


def _union(sets: Iterable[frozenset[int] | None]) -> frozenset[int] | None:
    found: frozenset[int] = frozenset()
    for partitions in sets:
        if partitions is None:
            return None
        found |= partitions
    return found
