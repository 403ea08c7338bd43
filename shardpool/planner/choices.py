"""The ways to bring the tables of a query together, and the bytes that are guessed to travel by each."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from shardpool.planner.ast import Tree
from shardpool.planner.gather import Sources
from shardpool.planner.pushdown import Queries, lie_together, queries
from shardpool.planner.repartition import repartitions
from shardpool.planner.scopes import Analysis, Item
from shardpool.planner.sizes import Statistics
from shardpool.planner.statement import Statement
from shardpool.topology.shard_map import Topology

#: Bytes that travel to every shard may be more than to one: the shards then share the rest of the work.
SPREAD_BONUS = 2.0
#: Dividing tables among all shards must save this, in bytes: it takes more statements, and the rows lie in files.
DIVIDING = 8 * 1024 * 1024
#: Differences below this are not worth the choice, in bytes.
SMALL = 256 * 1024


@dataclass(frozen=True)
class Choice:
    """A way to answer a query: tables that are gathered, those that stay, and the bytes that are guessed to travel.

    With `in_place` the gathered ones are spread; those in `divided` are divided among the shards by a column.
    """

    travels: float
    gathered: list[Item]
    in_place: list[Item] = field(default_factory=list)
    divided: Mapping[Item, str] = field(default_factory=dict)

    def divided_tables(self) -> list[tuple[str, str]]:
        """The tables to divide, with the column's name in the table."""
        columns = ((item.table, item.column(name)) for item, name in self.divided.items())
        return sorted({(table.name, column.name) for table, column in columns if table is not None and column})


class Choices:
    """The choices for the queries of one statement. *name* gives a new name to a table."""

    def __init__(
        self, statement: Statement, topology: Topology, statistics: Statistics, name: Callable[[str], str]
    ) -> None:
        self._statement, self._topology, self._statistics, self._name = statement, topology, statistics, name
        self._proven: dict[tuple[Analysis, frozenset[Item], frozenset[tuple[Item, str]]], Queries | str] = {}

    def of(self, select: Tree, analysis: Analysis, sources: Sources) -> list[Choice]:
        """Return the choices for a query, the best one first."""
        sharded = [item for item in analysis.occurrences if item.table is not None and item.table.sharded]
        in_place = self._in_place(select, analysis, sharded)
        spread = [item for item in sharded if item not in in_place]
        shards = len(self._topology.shard_map.by_shard())
        found: list[Choice] = []
        if in_place:
            travels = sources.bytes_of(spread) * shards / SPREAD_BONUS - SMALL
            found.append(Choice(travels, spread, in_place))
        if spread or not in_place:
            # Where next to nothing is spread, gathering is a way out only, and not worth the shards' estimates.
            least = found and found[0].travels <= 0
            found.append(Choice(math.inf if least else sources.bytes_of(sharded), sharded))
        if spread and shards > 1 and min(choice.travels for choice in found) > DIVIDING:
            found += self._dividing(select, analysis, sources, sharded, shards)
        return sorted(found, key=lambda choice: choice.travels)

    def _dividing(
        self, select: Tree, analysis: Analysis, sources: Sources, sharded: list[Item], shards: int
    ) -> Iterator[Choice]:
        """The ways to divide large tables anew by the columns on which they are joined, the others being spread."""
        for divided in repartitions(sharded, self._statement, self._size):
            rest = [item for item in sharded if item not in divided]
            if not isinstance(self.queries(select, analysis, rest, divided), str):
                alone = sources.bytes_of(list(divided)) / shards
                spread = sources.bytes_of(rest) * shards
                yield Choice((alone + spread) / SPREAD_BONUS + DIVIDING, sharded, divided=divided)

    def _in_place(self, select: Tree, analysis: Analysis, sharded: list[Item]) -> list[Item]:
        """The occurrences that stay where they are: the largest one that can, and all that lie with it."""
        ordered = sorted(sharded, key=lambda item: self._size(item.table.name if item.table else ""), reverse=True)

        def lie(in_place: list[Item]) -> bool:
            spread = [item for item in sharded if item not in in_place]
            return lie_together(select, analysis, self._statement, self._topology, spread)

        def works(in_place: list[Item]) -> bool:
            spread = [item for item in sharded if item not in in_place]
            return not isinstance(self.queries(select, analysis, spread), str)

        for first in ordered:
            # Whether a table lies with others is asked first: it is quicker to say.
            found = _largest(first, ordered, lie) if len(ordered) > 1 else [first]
            if found and not works(found):
                found = _largest(first, ordered, works)
            if found:
                return found
        return []

    def queries(
        self,
        select: Tree,
        analysis: Analysis,
        spread: Collection[Item],
        divided: Mapping[Item, str] = MappingProxyType({}),
    ) -> Queries | str:
        """Return the queries of a choice, which are made once."""
        choice = analysis, frozenset(spread), frozenset(divided.items())
        if choice not in self._proven:
            table = self._name("partial")
            found = queries(select, analysis, self._statement, self._topology, spread, divided, table)
            self._proven[choice] = found
        return self._proven[choice]

    def _size(self, table: str) -> float:
        return self._statistics.size(table).bytes


def _largest(first: Item, ordered: Iterable[Item], works: Callable[[list[Item]], bool]) -> list[Item]:
    """Return *first* and, one after another, those with which it *works*; nothing if it does not alone."""
    found = [first]
    if not works(found):
        return []
    for item in ordered:
        if item is not first and works([*found, item]):
            found.append(item)
    return found
