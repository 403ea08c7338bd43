"""The rung *stages*: temporary tables first, then a query over them.

Of a query whose tables do not lie together, some are *spread*: their needed rows are gathered and copied to all shards,
where they count as reference tables for the rest, which stays where it is. Or all are gathered, each reduced by the
ones before, and the query runs on the merge node. The estimated bytes that travel decide. Subqueries that stand alone
are run first, as queries of their own in the same manner.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from shardpool.planner.analyse import analyse
from shardpool.planner.ast import Tree, UnfaithfulText
from shardpool.planner.choices import Choice, Choices
from shardpool.planner.clauses import has_full_join
from shardpool.planner.gather import Source, Sources
from shardpool.planner.needed import takes_whole_rows
from shardpool.planner.partitionwise import PartitionWise
from shardpool.planner.pins import find_pins
from shardpool.planner.plan import (
    Computed,
    Concatenation,
    MergeQuery,
    PartialRows,
    Relation,
    Stage,
)
from shardpool.planner.pushdown import Pushdown, placed_text, written
from shardpool.planner.scopes import Analysis, Columns, Item
from shardpool.planner.sizes import Statistics
from shardpool.planner.staged_plan import Pinned, Stages
from shardpool.planner.statement import Statement
from shardpool.planner.subqueries import Subqueries, output_columns
from shardpool.topology.shard_map import Topology

#: Plans that move less than this are good enough, in bytes.
CHEAP = 1024 * 1024


def plan_stages(statement: Statement, analysis: Analysis, topology: Topology, statistics: Statistics) -> Stages | str:
    """Return the stages of a statement, or the reason why there are none."""
    planner = _Planner(statement, topology, statistics)
    select = statement.node.select_stmt
    if takes_whole_rows(select, analysis):
        return "a whole row may be meant, and has its table's type"
    try:
        found = planner.query(select, analysis)
    except UnfaithfulText:
        return "the generated text could not be proven faithful"
    if found is None:
        return "no plan was found for what could be computed first"
    stages = tuple(planner.finished(found.text))
    gathers = isinstance(found.then, MergeQuery) and all(isinstance(stage, Relation) for stage, _ in stages)
    if gathers and not any(stage.spread for stage, _ in stages):
        return "no part of the statement can be computed before the rest"
    return Stages(stages, found.then, found.pinned)


@dataclass(frozen=True)
class _Query:
    """How a query is answered once the stages before it are there."""

    then: Pushdown | MergeQuery
    pinned: Pinned
    #: Bytes that are guessed to travel.
    travelling: float

    @property
    def text(self) -> str:
        """What is run on the shards after the stages."""
        return "" if isinstance(self.then, MergeQuery) else self.then.partial


@dataclass(frozen=True)
class _Way:
    """A choice for a query whose subqueries are done by *stages*; `travelling` counts what these move, too."""

    select: Tree
    analysis: Analysis
    sources: Sources
    choice: Choice
    stages: list[tuple[Stage, Pinned | None]]
    travelling: float


class _Planner:
    def __init__(self, statement: Statement, topology: Topology, statistics: Statistics) -> None:
        self._statement = statement
        self._topology = topology
        self._statistics = statistics
        self._names: Counter[str] = Counter()
        self.stages: list[tuple[Stage, Pinned | None]] = []
        self._columns: dict[str, Columns] = {}
        self._travelling = 0.0
        self._analyses: dict[int, tuple[Tree, Analysis]] = {}
        self._choices = Choices(statement, topology, statistics, self._name)
        #: Subqueries that were planned: the table with the rows, the stages that make it, and what travels for it.
        self._planned: dict[bytes, tuple[str | None, list[tuple[Stage, Pinned | None]], float]] = {}

    def finished(self, last: str) -> list[tuple[Stage, Pinned | None]]:
        """The stages; those that a later text for the shards names are spread."""
        texts = [last]
        found = []
        for stage, pinned in reversed(self.stages):
            divided = isinstance(stage, Relation) and bool(stage.divided_by)
            spread = divided or any(re.search(rf"\b{stage.name}\b", text) for text in texts)
            found.append((replace(stage, spread=spread), pinned))
            if not isinstance(stage, Computed):
                texts.append(stage.select)
        return found[::-1]

    def query(self, select: Tree, analysis: Analysis) -> _Query | None:
        """Plan a query; its stages are added. None if there is no plan: then none are.

        First only those subqueries are run before it that must be. If much is to travel then, or there is no plan, all
        that can be.
        """
        proof = PartitionWise(analysis, self._statement, self._topology)
        subqueries = Subqueries(select, analysis, proof, self._analysed, self._run_first)
        before = list(self.stages)
        ways: list[_Way] = []
        tried: Tree = None
        for everything in (False, True):
            self.stages, self._travelling = list(before), 0.0
            staged = subqueries.staged(everything=everything)
            if staged is tried or staged == tried:
                break
            tried = staged
            ways += self._ways(staged, analysis if staged is select else self._analysed(staged))
            if any(way.travelling <= CHEAP for way in ways) and (found := self._first_of(ways)) is not None:
                return found
        self.stages = before
        return self._first_of(ways)

    def _first_of(self, ways: list[_Way]) -> _Query | None:
        """Return the query by the way on which least travels, of those that can be written down."""
        for way in sorted(ways, key=lambda way: way.travelling):
            found = self._query_over(way)
            if found is not None:
                return found
        return None

    def _run_first(self, select: Tree) -> str | None:
        """Add the stages of a subquery; return the name of the last one's table, which has its rows."""
        place = select.SerializeToString(deterministic=True)
        if place not in self._planned:
            before, travelling = self.stages, self._travelling
            self.stages, self._travelling = list(before), 0.0
            name = self._plan_first(select)
            self._planned[place] = name, self.stages[len(before) :], self._travelling
            self.stages, self._travelling = before, travelling
        name, added, travels = self._planned[place]
        self.stages += added
        self._travelling += travels
        return name

    def _plan_first(self, select: Tree) -> str | None:
        columns = output_columns(select, self._analysed)
        assert columns is not None
        mark = len(self.stages)
        found = self.query(select, self._analysed(select))
        if found is None or (isinstance(found.then, Pushdown) and found.then.limits):
            del self.stages[mark:]
            self._travelling = 0.0
            return None
        self._travelling = found.travelling
        name = self._name("stage")
        width = len(columns)
        if isinstance(found.then, MergeQuery):
            self.stages.append((Computed(name, width, found.then.sql), None))
        elif found.then.merge == Concatenation():
            self._add_partial(name, width, found.then, found.pinned)
        else:
            self._add_partial(found.then.table, 0, found.then, found.pinned)
            self.stages.append((Computed(name, width, _merge_sql(found.then)), None))
        self._columns[name] = tuple(f"c{number}" for number in range(1, width + 1))
        return name

    def _add_partial(self, name: str, width: int, pushdown: Pushdown, pinned: Pinned) -> None:
        self.stages.append((PartialRows(name, width, pushdown.partial, {}, pushdown.appended), pinned))

    def _name(self, kind: str) -> str:
        self._names[kind] += 1
        return f"shardpool_{kind}_{self._names[kind]}"

    # -- one query, its subqueries done -----------------------------------------------------------------------------

    def _analysed(self, select: Tree) -> Analysis:
        """Return the analysis of a query, which is not changed again."""
        if id(select) not in self._analyses:
            self._analyses[id(select)] = select, analyse(select, self._topology, self._columns)
        return self._analyses[id(select)][1]

    def _ways(self, select: Tree, analysis: Analysis) -> list[_Way]:
        """Return the ways to answer a query after the stages of its subqueries, the best one first."""
        sources = Sources(select, analysis, self._statement, self._topology, self._statistics)
        stages, already = self.stages, self._travelling
        return [
            _Way(select, analysis, sources, choice, stages, max(choice.travels, 0.0) + already)
            for choice in self._choices.of(select, analysis, sources)
        ]

    def _query_over(self, way: _Way) -> _Query | None:
        """Write a way down; its stages are added to those of its subqueries. None if it cannot be."""
        select, analysis, sources, choice = way.select, way.analysis, way.sources, way.choice
        pins = find_pins(analysis, self._statement)
        sources.forget_spread()
        dropped = sources.drop(choice.gathered)
        added: list[tuple[Stage, Pinned | None]] = []

        def gather(table: str, items: list[Item], divided_by: str = "") -> str:
            source, name = sources.source(table, items), self._name("rows")
            relation = replace(relation_of(source, name, analysis), divided_by=divided_by)
            found = tuple(analysis.occurrences[place] for place in source.occurrences)
            added.append((relation, Pinned(pins, analysis, found)))
            return name

        whole = [item for item in choice.gathered if item not in choice.divided]
        for table in sources.in_order(whole):
            sources.mark_spread(table, whole, gather(table, whole))
        spread = dict(sources.spread)
        for table, column in choice.divided_tables():
            items = [item for item in choice.divided if item.table is not None and item.table.name == table]
            spread |= dict.fromkeys(items, gather(table, items, column))
        then: Pushdown | MergeQuery
        if choice.in_place or choice.divided:
            proven = self._choices.queries(select, analysis, spread.keys() - choice.divided.keys(), choice.divided)
            if isinstance(proven, str):
                return None
            found = written(proven, select, analysis, self._statement, self._topology, spread, dropped)
            if isinstance(found, str):
                return None
            then, roots, lists = found, found.roots, found.lists
        else:
            text = placed_text(select, analysis, self._statement, self._topology, spread, dropped=dropped)
            then, roots, lists = MergeQuery(text), (), ()
        self.stages = [*way.stages, *added]
        return _Query(then, Pinned(pins, analysis, roots, lists, bool(choice.divided)), way.travelling)


def _merge_sql(pushdown: Pushdown) -> str:
    if isinstance(pushdown.merge, MergeQuery):
        return pushdown.merge.sql
    limit = "ALL" if pushdown.merge.limit is None else pushdown.merge.limit
    return f"SELECT * FROM {pushdown.table} LIMIT {limit} OFFSET {pushdown.merge.offset or 0}"


def relation_of(source: Source, name: str, analysis: Analysis) -> Relation:
    """Return the relation of a source, without partitions.

    Selecting columns that depend on a grouped primary key needs that key. FULL JOIN takes conditions like
    ``key IS NULL`` only where it is known that the key never is.
    """
    key = source.table.primary_key
    grouped = any(scope.select.group_clause for scope in analysis.scopes)
    whole = grouped and {column.name for column in source.columns}.issuperset(key)
    not_null = tuple(column.name for column in source.columns if column.not_null) if has_full_join(analysis) else ()
    return Relation(
        name,
        source.table.name,
        source.columns,
        key if whole else (),
        source.indexes,
        source.select,
        {},
        source.appended,
        not_null=not_null,
    )
