"""Gathering tables: the rows that a statement may need, as temporary tables of the merge node (or of all shards).

For each sharded table: the columns whose names occur in the statement (all of them where a star, a whole row or an
unknown function may need more), and of the rows those that pass, for some occurrence of the table, its own conditions.
Every occurrence finds a superset of its rows and checks its conditions again, so that nothing is lost or added.

A row that must equal one of another table, by a fact that holds for it, is needed only if that one is: so a table can
be reduced by the filtered rows of a reference table, or of a table that was gathered and spread to all shards before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, UnfaithfulText, has_subquery, to_sql
from shardpool.planner.filters import Filters
from shardpool.planner.needed import Needed
from shardpool.planner.needed_rows import (
    equalities,
    existence_checks,
    joined,
    looked_up_by,
    named_so,
)
from shardpool.planner.plan import APPENDED_ROWS, SCHEMA_MARKER, rows_of
from shardpool.planner.rewrite import column, target
from shardpool.planner.scopes import STAGE_SCHEMA, Analysis, Item, Member
from shardpool.planner.sizes import Statistics, selectivity
from shardpool.planner.statement import Statement, to_pyformat
from shardpool.topology.key import KEY_TYPES
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Column, Table

#: Tables up to this size, in bytes, are not worth asking a shard how many rows pass.
SMALL_TABLE = 256 * 1024


@dataclass(frozen=True)
class Source:
    """A table to gather: the query for its needed rows, and its occurrences' places in the analysis."""

    table: Table
    columns: tuple[Column, ...]
    select: str
    occurrences: tuple[int, ...]
    indexes: tuple[tuple[str, ...], ...] = ()
    #: The table's rows, if `select` reads those of all partitions at once: tables that reduce it are read once.
    appended: str = ""


def plan_sources(
    analysis: Analysis, statement: Statement, topology: Topology, unknown_function: str | None
) -> tuple[Source, ...]:
    """Return what to gather for a statement as a whole, one entry per sharded table of it."""
    everything = unknown_function is not None
    sources = Sources(statement.node.select_stmt, analysis, statement, topology, Statistics(), everything)
    sharded = {item.table.name for item in analysis.occurrences if item.table is not None and item.table.sharded}
    return tuple(sources.source(name, analysis.occurrences) for name in sorted(sharded))


class Sources:
    """Makes `Source`s for the tables of one query. With *everything* they are whole.

    Conditions that `drop` names are not checked again, and their columns not gathered for that.
    """

    def __init__(
        self,
        select: Tree,
        analysis: Analysis,
        statement: Statement,
        topology: Topology,
        statistics: Statistics,
        everything: bool = False,
    ) -> None:
        self._select_stmt = select
        self._analysis = analysis
        self._statement = statement
        self._topology = topology
        self._statistics = statistics
        self._everything = everything
        self._filters = Filters(analysis, statement, topology)
        #: Occurrences whose needed rows stand in a temporary table of every shard: its name.
        self.spread: dict[Item, str] = {}
        self._shares: dict[Item, float] = {}
        self._dropped = False
        self._own_share = cache(self._guess_own_share)
        self._equalities = cache(equalities)

    @cached_property
    def _needed(self) -> Needed | None:
        return None if self._everything else Needed(self._select_stmt, self._analysis)

    @cached_property
    def _checks(self) -> list[Tree]:
        return [] if self._everything else existence_checks(self._select_stmt, self._topology)

    def source(self, name: str, occurrences: Collection[Item]) -> Source:
        """Return the source of a table for those of the *occurrences* that are of it."""
        table = self._topology.tables[name]
        items = [item for item in occurrences if item.table is table]
        renamed = any(item.node.alias.colnames for item in items)
        columns = tuple(c for c in table.columns if self._needed is None or renamed or self._needed.has(name, c.name))
        columns = columns or table.columns[:1]
        condition = None if self._everything else self._condition(items)
        places = tuple(self._analysis.occurrences.index(item) for item in items)
        indexes = tuple(dict.fromkeys(found for item in items if (found := looked_up_by(item))))
        select = self._select(table, columns, condition, distinct=self._are_checks(table, items, columns))
        appended = rows_of(table, table.columns) if APPENDED_ROWS in select else ""
        return Source(table, columns, select, places, indexes, appended)

    def _are_checks(self, table: Table, items: list[Item], columns: tuple[Column, ...]) -> bool:
        """Whether equal rows need to be gathered once only; where equal values are the same to the last byte."""
        key = table.primary_key
        if key and {column.name for column in columns}.issuperset(key):
            return False
        same = all(column.base_type in KEY_TYPES and not column.collation for column in columns)
        return same and all(
            not item.sampled and any(item.scope.select is check for check in self._checks) for item in items
        )

    def share(self, name: str, occurrences: Collection[Item]) -> float:
        """Guess the share of a table's rows that those of the *occurrences* need that are of it."""
        items = [item for item in occurrences if item.table is not None and item.table.name == name]
        return min(1.0, sum(self._own_share(item) * self._reduced(item) for item in items))

    def drop(self, occurrences: Collection[Item]) -> list[Tree]:
        """Return the conditions that all gathered rows fulfil, and no longer count their columns as needed.

        That is so for a table that is gathered for one occurrence only, and for the reference tables that reduce it
        and that it finds by their primary key: checked again, they would make PostgreSQL expect too few rows.
        """
        tables = [item.table for item in occurrences]
        alone = [item for item in occurrences if tables.count(item.table) == 1 and not item.sampled]
        found = self._filters.settled(alone)
        self._needed = Needed(self._select_stmt, self._analysis, found)
        self._dropped = bool(found)
        return found

    def mark_spread(self, name: str, occurrences: Collection[Item], table: str) -> None:
        """From now on the needed rows of a table, in the temporary *table*, can reduce others."""
        share = self.share(name, occurrences)
        for item in occurrences:
            if item.table is not None and item.table.name == name:
                self.spread[item] = table
                self._shares[item] = share

    def in_order(self, occurrences: Collection[Item]) -> Iterator[str]:
        """Yield the tables of *occurrences*, the one with the fewest needed bytes first. Each is to be marked then."""
        left = {item.table.name for item in occurrences if item.table is not None}
        while left:
            least = min(sorted(left), key=lambda name: self._bytes(name, occurrences))
            left.remove(least)
            yield least

    def bytes_of(self, occurrences: Collection[Item]) -> float:
        """Guess the bytes to gather for *occurrences*, if each table is reduced by the ones before."""
        total = 0.0
        for name in self.in_order(occurrences):
            total += self._bytes(name, occurrences)
            self.mark_spread(name, occurrences, "")
        self.forget_spread()
        return total

    def forget_spread(self) -> None:
        """No table is spread any more."""
        self.spread = {}
        self._shares = {}

    def _bytes(self, name: str, occurrences: Collection[Item]) -> float:
        columns = self._topology.tables[name].columns
        needed = sum(1 for column in columns if self._needed is None or self._needed.has(name, column.name))
        return self._statistics.size(name).bytes * needed / len(columns) * self.share(name, occurrences)

    def _guess_own_share(self, item: Item) -> float:
        """Guess the share of a table's rows that pass the item's own conditions; PostgreSQL guesses for large ones."""
        own = self._filters.own(item)
        if not own or item.table is None:
            return 1.0
        size = self._statistics.size(item.table.name)
        plain = [condition for condition in own if not has_subquery(condition)]
        if plain and item.table.sharded and size.bytes > SMALL_TABLE:
            rows = self._statistics.rows(self._select(item.table, (), joined(pb.AND_EXPR, plain)))
            if rows is not None:
                share = rows / max(size.rows, 1.0)
                return min(1.0, share * selectivity(condition for condition in own if condition not in plain))
        return selectivity(own)

    # -- conditions -------------------------------------------------------------------------------------------------

    def _condition(self, items: list[Item]) -> Tree | None:
        """The OR, over the occurrences, of each one's own conditions; None if one occurrence has none."""
        choices = []
        for item in items:
            parts = [] if item.sampled else [*self._filters.own(item), *self._reductions(item, ())]
            if not parts:
                return None
            choices.append(joined(pb.AND_EXPR, parts))
        return joined(pb.OR_EXPR, choices)

    def _reductions(self, item: Item, path: tuple[Item, ...]) -> list[Tree]:
        """Conditions of the form ``column IN (SELECT ...)`` that needed rows fulfil."""
        found = []
        for own, other in self._equalities(item):
            if other[0] is not item and other[0] not in path:
                reducer = self._reducer(other, (*path, item))
                if reducer is not None:
                    link = pb.SubLink(sub_link_type=pb.ANY_SUBLINK, testexpr=column(own), subselect=reducer)
                    found.append(pb.Node(sub_link=link))
        return found

    def _reducer(self, member: Member, path: tuple[Item, ...]) -> Tree | None:
        """The SELECT of the values that a column has in the needed rows of its table, if all shards can answer it."""
        item, name = member
        if item.table is None or item.sampled or not named_so(item, name):
            return None
        if item in self.spread:
            source = pb.RangeVar(schemaname=STAGE_SCHEMA, relname=self.spread[item], inh=True, relpersistence="p")
            conditions: list[Tree] = []
        elif item.table.sharded:
            return None
        else:
            conditions = [*self._filters.own(item), *self._reductions(item, path)]
            if not conditions:
                return None
            source = pb.RangeVar(relname=item.table.name, inh=True, relpersistence="p")
        source.alias.aliasname = _REDUCER
        select = pb.SelectStmt(limit_option=pb.LIMIT_OPTION_DEFAULT, op=pb.SETOP_NONE)
        fields = [pb.Node(string=pb.String(sval=part)) for part in (_REDUCER, name)]
        select.target_list.append(target(pb.Node(column_ref=pb.ColumnRef(fields=fields))))
        select.from_clause.append(pb.Node(range_var=source))
        if conditions:
            select.where_clause.CopyFrom(joined(pb.AND_EXPR, conditions))
        return pb.Node(select_stmt=select)

    def _reduced(self, item: Item, path: tuple[Item, ...] = ()) -> float:
        share = 1.0
        for _, (other, _) in self._equalities(item):
            if other is item or other in path or other.table is None:
                continue
            if other in self._shares:
                share *= self._shares[other]
            elif not other.table.sharded:
                share *= self._own_share(other) * self._reduced(other, (*path, item))
        return share

    def _select(
        self, table: Table, columns: tuple[Column, ...], condition: Tree | None, *, distinct: bool = False
    ) -> str:
        select = pb.SelectStmt(limit_option=pb.LIMIT_OPTION_DEFAULT, op=pb.SETOP_NONE)
        select.target_list.extend(target(column(c.name)) for c in columns)
        if distinct:
            select.distinct_clause.append(pb.Node())
        source = pb.RangeVar(schemaname=SCHEMA_MARKER, relname=table.name, inh=True, relpersistence="p")
        if condition is not None:
            select.where_clause.CopyFrom(condition)
            if has_subquery(condition):
                source.schemaname, _, source.relname = APPENDED_ROWS.partition(".")
                source.alias.aliasname = table.name
        select.from_clause.append(pb.Node(range_var=source))
        try:
            return to_pyformat(to_sql(select), self._statement)
        except UnfaithfulText:
            # Rows that are not checked again must be checked here.
            if condition is None or self._dropped:
                raise
            return self._select(table, columns, None, distinct=distinct)


#: What the table that reduces another one is called in the condition.
_REDUCER = "shardpool_reducer"
