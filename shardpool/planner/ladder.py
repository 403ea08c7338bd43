"""The ladder: from a statement to a plan, cheapest rung first.

`compile_query` does once per statement and schema what does not depend on parameters; `CompiledQuery.bind` then chooses
the rung and the partitions for the parameters of one call and the shard map of the moment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from shardpool.planner.analyse import analyse
from shardpool.planner.ast import is_a, kind
from shardpool.planner.clauses import aggregates_of_outer_queries, needs_rows
from shardpool.planner.constants import UNKNOWN, Parameter, key_value
from shardpool.planner.depth import at_any_depth
from shardpool.planner.frozen import Memory, planning, remembering
from shardpool.planner.gather import Source, plan_sources
from shardpool.planner.lists import parts_of
from shardpool.planner.locks import RowLocks, row_locks
from shardpool.planner.moment import at_one_moment
from shardpool.planner.pins import Pin, find_pins, partitions_of, union_of
from shardpool.planner.plan import (
    READ_ONLY,
    GatherPlan,
    Plan,
    PushdownPlan,
    Reason,
    ReferencePlan,
    SinglePlan,
    rows_of,
)
from shardpool.planner.pushdown import Pushdown, plan_pushdown
from shardpool.planner.refusals import refuse
from shardpool.planner.safety import check_query, check_session, moving_parameters
from shardpool.planner.scopes import Analysis
from shardpool.planner.sizes import Statistics
from shardpool.planner.staged_plan import Stages
from shardpool.planner.stages import plan_stages, relation_of
from shardpool.planner.statement import Statement
from shardpool.planner.words import Template, in_partition, over_gathered
from shardpool.topology.key import KeyType
from shardpool.topology.shard_map import Topology

NO_STATISTICS = Statistics()


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
        words = READ_ONLY + words
    locks = row_locks(select, analysis)
    if not any(item.table is not None and item.table.sharded for item in analysis.occurrences):
        return CompiledQuery(statement, topology, analysis, words, unknown, locks)
    pins = find_pins(analysis, statement)
    template = in_partition(statement, topology, [item.node for item in analysis.occurrences])
    still = at_one_moment(statement, topology)
    still_analysis = analysis if still is statement else analyse(still.node.select_stmt, topology)
    whole = _why_whole(still_analysis, unknown, locks)
    pushdown = whole or plan_pushdown(still.node.select_stmt, still_analysis, still, topology)
    compiled = CompiledQuery(
        statement,
        topology,
        analysis,
        words,
        unknown,
        locks,
        True,
        pins,
        template,
        still,
        still_analysis,
        whole,
        pushdown,
    )
    if planning.memory is not None and isinstance(pushdown, str) and not whole:
        compiled._handed_on.append(planning.memory)
    return compiled


def _why_whole(analysis: Analysis, unknown: str | None, locks: RowLocks | None) -> str:
    """Why a statement can only be evaluated as a whole; "" if parts of it may be."""
    if locks is not None and locks.below:
        return "it locks rows of a subquery or a view"
    if unknown is not None:
        return f"function {unknown}() may read anything"
    if aggregates_of_outer_queries(analysis):
        return "an aggregate in a subquery belongs to the query around it"
    return ""


@dataclass(frozen=True)
class CompiledQuery:
    """A SELECT, analysed. `pushdown` is a reason where there is no such plan."""

    statement: Statement
    topology: Topology
    analysis: Analysis
    words: str
    unknown_function: str | None
    locks: RowLocks | None = None
    sharded: bool = False
    pins: tuple[Pin | None, ...] = ()
    template: Template = ()
    #: The statement with the current time as a parameter, where more than one server evaluates parts of it.
    still: Statement | None = None
    still_analysis: Analysis | None = None
    #: Why it can only be evaluated as a whole.
    whole: str = ""
    pushdown: Pushdown | str = ""
    #: What the columns of a contradiction are, by its parameters: it is asked once.
    described: dict[str, Any] = field(default_factory=dict, compare=False)
    #: What was found out about the trees, for stages that are planned at once.
    _handed_on: list[Memory] = field(default_factory=list, compare=False)
    #: Stages by what the sizes of tables were like.
    _stages: dict[tuple[int, ...], Stages | str] = field(default_factory=dict, compare=False)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """What to gather, for statements that come to that."""
        assert self.still is not None and self.still_analysis is not None
        still, analysis = self.still, self.still_analysis
        return at_any_depth(lambda: plan_sources(analysis, still, self.topology, self.unknown_function))

    @cached_property
    def _key(self) -> tuple[str, tuple[KeyType, ...]] | None:
        """The parameter that is the key of all sharded tables, and its type: the common case, which is to be quick."""
        found = set()
        for item, pin in zip(self.analysis.occurrences, self.pins, strict=True):
            if item.table is not None and item.table.sharded:
                sources = () if pin is None else tuple(source for lists in pin.columns for it in lists for source in it)
                found.add((sources, item.table.key_types))
        (sources, key_types), *others = found
        if others or len(key_types) != 1 or len(sources) != 1 or self.unknown_function is not None:
            return None
        source = sources[0]
        return (source.name, key_types) if isinstance(source, Parameter) and not source.many else None

    @property
    def by_one_key(self) -> bool:
        """Whether one parameter is the key of all sharded tables."""
        return self.sharded and self._key is not None

    def locks_partitions(self, parameters: Mapping[str, Any], topology: Topology) -> bool:
        """Whether the rows that it locks are of several partitions, which takes a transaction. Raise as `bind`."""
        return self.sharded and isinstance(self.bind(parameters, topology, locking=True), PushdownPlan)

    @property
    def _moment(self) -> bool:
        return self.still is not self.statement

    def bind(
        self,
        parameters: Mapping[str, Any],
        topology: Topology,
        statistics: Statistics = NO_STATISTICS,
        failed: Mapping[str, str] = MappingProxyType({}),
        *,
        locking: bool = False,
    ) -> Plan:
        """Choose a rung. Raise `UnsupportedStatement` for row locks that cannot be held.

        *failed* are the rungs that were tried and are not to be taken, with the reasons; *statistics* are asked if
        needed. *locking*: there is a transaction, which can hold row locks over several partitions.
        """
        try:
            plan = self._bind(parameters, topology, statistics, failed)
            if self.locks is not None:
                self._check_locks(self.locks, plan, locking)
            return plan
        finally:
            self._handed_on.clear()

    def _bind(
        self,
        parameters: Mapping[str, Any],
        topology: Topology,
        statistics: Statistics,
        failed: Mapping[str, str],
    ) -> Plan:
        if not self.sharded:
            return ReferencePlan(self.words)
        if self._key is not None:
            name, key_types = self._key
            value = key_value(parameters.get(name, UNKNOWN), key_types[0])
            if value is not UNKNOWN:
                placement = topology.place(value, key_types)
                return SinglePlan(placement, topology.qualifiers[placement.partition.id].join(self.template))
        pinned = [
            partitions_of(self.pins, index, item, parameters, topology)
            for index, item in enumerate(self.analysis.occurrences)
        ]
        single = self._single(pinned, topology)
        if isinstance(single, SinglePlan):
            return single
        reasons = [single, Reason("reference", "the statement reads sharded tables")]
        found = self._pushdown(pinned, parameters, topology, failed.get("pushdown", ""))
        if isinstance(found, PushdownPlan):
            return replace(found, reasons=tuple(reasons))
        reasons.append(Reason("pushdown", found))
        if self.locks is not None:
            raise refuse("SP104", f"{self.locks.words}: {found}")
        stages = failed.get("stages") or self._stages_for(parameters, topology, statistics)
        if isinstance(stages, Stages):
            return stages.bind(parameters, topology, tuple(reasons), self._moment)
        reasons.append(Reason("stages", stages))
        return self._gather(pinned, parameters, topology, tuple(reasons))

    def _check_locks(self, locks: RowLocks, plan: Plan, locking: bool) -> None:
        if isinstance(plan, PushdownPlan) or (isinstance(plan, ReferencePlan) and locks.some and locking):
            locks.check_copies()
        if isinstance(plan, PushdownPlan) and not locking:
            raise refuse("SP104", f"{locks.words}: there is no transaction")
        if self.unknown_function is not None:
            raise refuse("SP104", f"{locks.words}: function {self.unknown_function}() may read or write anything")

    def _pushdown(
        self, pinned: list[frozenset[int] | None], parameters: Mapping[str, Any], topology: Topology, failed: str
    ) -> PushdownPlan | str:
        if failed or isinstance(self.pushdown, str):
            return failed or str(self.pushdown)
        if not all(_plain_limit(parameters.get(name)) for name in self.pushdown.limits):
            return "LIMIT or OFFSET is not a plain number"
        if moving_parameters(parameters):
            return "a parameter may mean the current time"
        assert self.still_analysis is not None
        found = union_of(
            (pinned[self.still_analysis.occurrences.index(root)] for root in self.pushdown.roots), topology
        )
        by_shard = topology.shard_map.by_shard(found)
        pushdown = self.pushdown
        pruned = found is not None
        return PushdownPlan(
            pushdown.partial,
            by_shard,
            pushdown.merge,
            pruned,
            appended=pushdown.appended,
            moment=self._moment,
            reads_tables=pushdown.reads_tables,
            lists=parts_of(pushdown.lists, by_shard, parameters, topology),
            limited=pushdown.limited,
            locks=self.locks is not None,
        )

    def _stages_for(self, parameters: Mapping[str, Any], topology: Topology, statistics: Statistics) -> Stages | str:
        if self.whole:
            return self.whole
        if moving_parameters(parameters):
            return "a parameter may mean the current time"
        names = sorted({item.table.name for item in self.analysis.occurrences if item.table is not None})
        likeness = tuple(int(math.log2(statistics.size(name).bytes + 1)) // 2 for name in names)
        if likeness not in self._stages:
            assert self.still is not None and self.still_analysis is not None
            still, analysis = self.still, self.still_analysis
            with remembering(*self._handed_on[:1]):
                self._stages[likeness] = at_any_depth(
                    lambda: plan_stages(
                        still,
                        # The tables are those of the topology that the stages are for.
                        analysis if topology is self.topology else analyse(still.node.select_stmt, topology),
                        topology,
                        statistics,
                    )
                )
        found = self._stages[likeness]
        limits = found.then.limits if isinstance(found, Stages) and isinstance(found.then, Pushdown) else ()
        plain = all(_plain_limit(parameters.get(name)) for name in limits)
        return found if plain else "LIMIT or OFFSET is not a plain number"

    def _single(self, pinned: list[frozenset[int] | None], topology: Topology) -> SinglePlan | Reason:
        if self.unknown_function is not None:
            return Reason("single", f"function {self.unknown_function}() may read other partitions")
        if any(pinned[place] == frozenset() for place in self._decisive):
            return self._words_in(topology.shard_map.partitions[0].id, topology, empty=True)
        found: set[int] = set()
        for item, partitions in zip(self.analysis.occurrences, pinned, strict=True):
            if item.table is not None and item.table.sharded:
                if partitions is None:
                    return Reason("single", f"{item.alias} is not pinned to a partition key")
                found |= partitions
        if len(found) > 1:
            return Reason("single", f"the keys lie in {len(found)} partitions")
        # Where all is a contradiction, any partition says so.
        return self._words_in(found.pop() if found else topology.shard_map.partitions[0].id, topology)

    def _words_in(self, partition: int, topology: Topology, *, empty: bool = False) -> SinglePlan:
        placement = topology.shard_map.placement(partition)
        return SinglePlan(placement, topology.qualifiers[placement.partition.id].join(self.template), empty=empty)

    @cached_property
    def _decisive(self) -> tuple[int, ...]:
        """The occurrences of which a row stands in every row of the result, whatever the parameters."""
        select = self.analysis.select
        if self.whole or not needs_rows(select):
            return ()
        return tuple(
            place
            for place, item in enumerate(self.analysis.occurrences)
            if item.scope.select is select and not item.outer and item.table is not None and item.table.sharded
        )

    def _gather(
        self,
        pinned: list[frozenset[int] | None],
        parameters: Mapping[str, Any],
        topology: Topology,
        reasons: tuple[Reason, ...],
    ) -> GatherPlan:
        filters = not moving_parameters(parameters)
        relations = []
        pruned = False
        for source in self.sources:
            # What an unknown function reads is not restricted by the statement's own conditions.
            partitions = (
                None if self.unknown_function else union_of((pinned[index] for index in source.occurrences), topology)
            )
            pruned = pruned or partitions is not None
            relation = relation_of(source, source.table.name, self.analysis)
            if not filters:
                relation = replace(relation, select=rows_of(source.table, source.columns), appended="")
            relations.append(replace(relation, by_shard=topology.shard_map.by_shard(partitions)))
        return GatherPlan(tuple(relations), self.words, pruned, reasons, self._moment)


def _plain_limit(value: object) -> bool:
    return value is None or (type(value) is int and 0 <= value < 1 << 62)
