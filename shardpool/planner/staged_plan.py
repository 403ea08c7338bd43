"""The stages of a statement, and what they become for the parameters of one call and the shard map of the moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from shardpool.planner.lists import KeyList, parts_of
from shardpool.planner.pins import Pin, partitions_of, union_of
from shardpool.planner.plan import ByShard, Computed, MergeQuery, PushdownPlan, Reason, Relation, Stage, StagesPlan
from shardpool.planner.pushdown import Pushdown
from shardpool.planner.scopes import Analysis, Item
from shardpool.topology.shard_map import Topology


@dataclass(frozen=True)
class Pinned:
    """The occurrences that decide in which partitions rows are needed."""

    pins: tuple[Pin | None, ...]
    analysis: Analysis
    items: tuple[Item, ...]
    #: The lists of keys that stand in the query for the partitions.
    lists: tuple[KeyList, ...] = ()
    #: The rows were divided among the shards: the query runs once on each.
    divided: bool = False

    def by_shard(self, parameters: Mapping[str, Any], topology: Topology) -> tuple[ByShard, bool]:
        """Return the partitions to ask, and whether they are fewer than all."""
        if self.divided:
            # Any partition: the query names none.
            return {shard: found[:1] for shard, found in topology.shard_map.by_shard().items()}, False
        partitions = self._partitions(parameters, topology)
        return topology.shard_map.by_shard(partitions), partitions is not None

    def _partitions(self, parameters: Mapping[str, Any], topology: Topology) -> frozenset[int] | None:
        places = {item: self.analysis.occurrences.index(item) for item in self.items}
        found = (partitions_of(self.pins, places[item], item, parameters, topology) for item in self.items)
        return union_of(found, topology)


@dataclass(frozen=True)
class Stages:
    """The stages and what comes after them, without the partitions: those depend on parameters and placements."""

    stages: tuple[tuple[Stage, Pinned | None], ...]
    then: Pushdown | MergeQuery
    pinned: Pinned

    def bind(
        self, parameters: Mapping[str, Any], topology: Topology, reasons: tuple[Reason, ...], moment: bool
    ) -> StagesPlan:
        """Return the plan for these parameters."""
        found: list[Stage] = []
        lists: dict[str, Any] = {}
        for stage, pinned in self.stages:
            if pinned is not None and not isinstance(stage, Computed):
                by_shard, _ = pinned.by_shard(parameters, topology)
                lists |= parts_of(pinned.lists, by_shard, parameters, topology)
                stage = replace(stage, by_shard=by_shard)
            if isinstance(stage, Relation) and stage.divided_by:
                stage = replace(stage, targets=tuple(sorted(topology.shard_map.by_shard())))
            found.append(stage)
        then = self.then
        if isinstance(then, MergeQuery):
            return StagesPlan(tuple(found), then, reasons, moment, lists)
        by_shard, pruned = self.pinned.by_shard(parameters, topology)
        lists |= parts_of(then.lists, by_shard, parameters, topology)
        last = PushdownPlan(then.partial, by_shard, then.merge, pruned, table=then.table, appended=then.appended)
        return StagesPlan(tuple(found), last, reasons, moment, lists)
