"""Which conditions of a query filter the rows of one table: those that fail them need not be gathered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, is_a, unwrap, walk_flat
from shardpool.planner.carriers import NotPartitionWise
from shardpool.planner.needed_rows import bare, conjuncts, finds_one, joined, named_so, removes, sides
from shardpool.planner.partitionwise import PartitionWise
from shardpool.planner.safety import not_repeatable
from shardpool.planner.scopes import Analysis, Fact, Item
from shardpool.planner.statement import Statement
from shardpool.topology.shard_map import Topology


class Filters:
    """The filters of the tables of one query, each judged once."""

    def __init__(self, analysis: Analysis, statement: Statement, topology: Topology) -> None:
        self._analysis = analysis
        self._topology = topology
        self._proof = PartitionWise(analysis, statement, topology)
        #: The conditions that the needed rows of an item fulfil by themselves.
        self.own = cache(self._own_conditions)
        self._facts = cache(self._judged_facts)

    def settled(self, items: Sequence[Item]) -> list[Tree]:
        """Return the conditions that need not be checked again for *items*, whose rows are gathered for them alone:
        their own, and those of the reference tables that reduce them and that they find by their primary keys.
        """
        found = [fact.condition for item in items for fact, filters in self._facts(item) if filters]
        found += [condition for item in items for condition in self._settled(item, ())]
        return [condition for condition in found if getattr(unwrap(condition), "location", 0) > 0]

    def _settled(self, item: Item, path: tuple[Item, ...]) -> Iterator[Tree]:
        """Yield the conditions of the reference tables of which each needed row of *item* finds one row, by its key."""
        for fact in item.scope.facts:
            for own, (other, name) in sides(fact, item) if fact.items is None else ():
                if own[0] is not item or other in (item, *path) or not finds_one(own, (other, name)):
                    continue
                conditions = [fact.condition for fact in other.scope.facts if fact.items is None]
                yield from (found for found in conditions if self._filters(Fact(None, frozenset(), found), other))
                yield from self._settled(other, (*path, item))

    def _own_conditions(self, item: Item) -> list[Tree]:
        found = []
        for fact, filters in self._facts(item):
            if filters:
                found.append(bare(fact.condition))
            elif is_a(fact.condition, "bool_expr") and fact.condition.bool_expr.boolop == pb.OR_EXPR:
                found += self._implied(fact, item)
        return found

    def _judged_facts(self, item: Item) -> list[tuple[Fact, bool]]:
        return [(fact, self._filters(fact, item)) for fact in item.scope.facts]

    def _implied(self, fact: Fact, item: Item) -> list[Tree]:
        """Of ``(own AND other) OR (own AND other)`` the OR of the item's own parts."""
        choices = []
        for branch in fact.condition.bool_expr.args:
            own = [part for part in conjuncts(branch) if self._filters(replace(fact, condition=part), item)]
            if not own:
                return []
            choices.append(joined(pb.AND_EXPR, [bare(part) for part in own]))
        return [joined(pb.OR_EXPR, choices)]

    def _filters(self, fact: Fact, item: Item) -> bool:
        """Whether rows of *item* that fail the condition can be left out beforehand."""
        if fact.condition is None or not removes(fact, item):
            return False
        nodes = list(walk_flat(fact.condition))
        members = [item.scope.resolve(node, fact.visible) for node in nodes if isinstance(node, pb.ColumnRef)]
        if not members or not all(m is not None and m[0] is item and named_so(item, m[1]) for m in members):
            return False
        links = [node for node in nodes if isinstance(node, pb.SubLink)]
        if not all(self._is_answered_everywhere(link) for link in links):
            return False
        return not_repeatable(fact.condition, self._topology, item.scope, whole=bool(links)) is None

    def _is_answered_everywhere(self, link: Tree) -> bool:
        """Whether a subquery reads stages and reference tables only, and looks at nothing outside of itself."""
        select = link.subselect.select_stmt
        try:
            same = self._proof.query(select) is None
        except NotPartitionWise:
            return False
        return same and self._analysis.stands_alone(select)
