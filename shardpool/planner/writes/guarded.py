"""Writes of a table with columns that are unique over all partitions: its reservations are written along.

A table of reservations has a row for each value of the column that is not NULL, in the partition of that value, where
its primary key keeps it unique; the row says the key of the row that has it. The write returns, hidden behind the
user's columns, what was written; what was there before it is found first, or returned by DELETE. What may do several of
these (MERGE, ON CONFLICT) returns both, which PostgreSQL 18 can.

While a column of a filled table is made unique (`moves.unique`), only the rows of partitions that no older router can
reach any more have their reservations written along, and those that go may not have had one yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import postgast
from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, kind, unwrap, walk
from shardpool.planner.keyed import reserved_columns
from shardpool.planner.refusals import refuse
from shardpool.planner.statement import Statement
from shardpool.planner.writes.staged import cell, place_key, row_step, rows_item, stored_key, unbounded
from shardpool.planner.writes.steps import NEW_ROW, OLD_ROW, CompiledWrite, Step, alias_of
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Placement, Topology
from shardpool.topology.tables import Table

#: The texts of a row's unique column and key.
Entry = tuple[str | None, ...]


@dataclass(frozen=True)
class Guarded:
    """`inner` returns `hidden` more columns: the unique ones, then the key, as texts. `verb` is its kind.

    `updates`: rows that it returns may have been there, with the same values in these columns. `both`: these columns
    of the new rows, then those of the old ones; NULLs where there is none.
    """

    inner: CompiledWrite
    table: Table
    verb: str
    returns: bool
    updates: bool
    both: bool = False

    @property
    def hidden(self) -> tuple[str, ...]:
        return hidden_columns(self.table)

    @property
    def width(self) -> int:
        """How many columns are hidden."""
        return len(self.hidden) * (1 + self.both)

    def bind(self, parameters: Mapping[str, Any], topology: Topology) -> Any:
        return self.inner.bind(parameters, topology)

    def reservations(
        self, before: Sequence[Sequence[str | None]], after: Sequence[Sequence[str | None]], topology: Topology
    ) -> list[Step]:
        """Return what keeps reservations right. *before*: whole rows as they were found; *after*: hidden columns."""
        old, new = self._changes(before, after)
        deleting, inserting = [], []
        for place, (column, name) in enumerate(self.table.unique):
            reservation = topology.tables.get(name)
            if reservation is None:
                raise refuse("SP139", f"{self.table.name} (its table {name} was not created)")
            wanted = [place, *range(len(self.table.unique), len(self.hidden))]
            gone = [tuple(row[it] for it in wanted) for row in old if row[place] is not None]
            come = [tuple(row[it] for it in wanted) for row in new if row[place] is not None]
            building = column in dict(self.table.building)
            if building:
                gone, come = self._reserved(column, gone, topology), self._reserved(column, come, topology)
            kept = set(gone) & set(come)
            # The same value twice is an error in any case, and the plain words tell it.
            ensure = self.updates and len({it[0] for it in come}) == len(come)
            words = ENSURE if ensure else _INSERT
            removed = reservation_steps(reservation, column, [it for it in gone if it not in kept], _DELETE, topology)
            deleting += [replace(it, expected=None) for it in removed] if building else removed
            inserting += reservation_steps(reservation, column, [it for it in come if it not in kept], words, topology)
        return deleting + inserting

    def _reserved(self, column: str, entries: Sequence[Entry], topology: Topology) -> list[Entry]:
        """Those of rows in partitions that write reservations of *column* already."""
        first = dict(self.table.building)[column]
        columns = [found for name in self.table.key if (found := self.table.column(name)) is not None]

        def partition(entry: Entry) -> int:
            parts = zip(entry[1:], columns, self.table.key_types, strict=True)
            return place_key([stored_key(*part) for part in parts], self.table, topology).partition.id

        return [entry for entry in entries if partition(entry) >= first]

    def _changes(
        self, before: Sequence[Sequence[str | None]], after: Sequence[Sequence[str | None]]
    ) -> tuple[Sequence[Sequence[str | None]], Sequence[Sequence[str | None]]]:
        """The hidden columns of the rows that were there, and of those that are."""
        if self.both:
            half = len(self.hidden)
            # The key, which is last, is NULL only where there is no row.
            return [row[half:] for row in after if row[-1] is not None], [
                row[:half] for row in after if row[half - 1] is not None
            ]
        if self.verb == "delete":
            return after, []
        names = [column.name for column in self.table.columns]
        return [tuple(row[names.index(name)] for name in self.hidden) for row in before], after


_DELETE = "DELETE FROM {table} USING {rows} WHERE {match}"
_INSERT = "INSERT INTO {table} ({columns}) SELECT {values} FROM {rows}"
#: Counts the rows that have their reservations now, whether they had them before or not.
ENSURE = (
    "INSERT INTO {table} AS shardpool_there ({columns}) SELECT {values} FROM {rows} "
    "ON CONFLICT ({unique}) DO UPDATE SET {unique} = excluded.{unique} "
    "WHERE ROW(shardpool_there.*) IS NOT DISTINCT FROM ROW(excluded.*)"
)
#: The error of the one that another row has.
_WHY = _INSERT + " WHERE NOT EXISTS (SELECT FROM {table} WHERE {match})"


def reservation_steps(
    reservation: Table, column: str, entries: Sequence[Entry], words: str, topology: Topology
) -> list[Step]:
    """Return what does *words* to the reservations *entries*: one step for each partition that they are in."""
    unique = reservation.column(column)
    assert unique is not None
    names = [column, *(it.name for it in reservation.columns if it.name != column)]
    columns = [it for name in names if (it := reservation.column(name)) is not None]
    table, quoted = quote(reservation.name), [quote(it.name) for it in columns]
    parts = {
        "table": table,
        "rows": "{rows}",
        "columns": ", ".join(quoted),
        "unique": quoted[0],
        "values": ", ".join(f"{cell(place)}::{it.type}" for place, it in enumerate(columns)),
        "match": " AND ".join(
            f"{table}.{name} = {cell(place)}::{unbounded(it)}"
            for place, (name, it) in enumerate(zip(quoted, columns, strict=True))
        ),
    }

    def filled(sql: str) -> str:
        return sql.format(**parts).replace("%", "%%").replace("{rows}", rows_item(len(columns)))

    sql, why = filled(words), filled(_WHY) if words == ENSURE else ""
    by_placement: dict[Placement, list[Entry]] = {}
    for entry in entries:
        key = stored_key(entry[0], unique, reservation.key_types[0])
        by_placement.setdefault(topology.place(key, reservation.key_types), []).append(entry)
    ordered = sorted(by_placement.items(), key=lambda it: (it[0].shard, it[0].partition.id))
    paths = topology.search_paths
    return [
        replace(
            row_step(placement, sql, len(columns), rows, {}, topology),
            expected=len(rows),
            why=why and paths[placement.partition.id] + why,
        )
        for placement, rows in ordered
    ]


def hidden_columns(table: Table) -> tuple[str, ...]:
    return (*dict(table.unique), *table.key)


def guarded_table(statement: Statement, topology: Topology) -> Table | None:
    """Return the table whose reservations a statement must write along, or None.

    Raise `UnsupportedStatement` for a write that cannot keep them right.
    """
    written = [
        topology.tables[node.relation.relname]
        for node in walk(statement.node)
        if isinstance(node, pb.InsertStmt | pb.UpdateStmt | pb.DeleteStmt | pb.MergeStmt)
        and node.relation.relname in topology.tables
    ]
    for table in written:
        if table.name in topology.reservations:
            raise refuse("SP139", table.name)
    guarded = [table for table in written if table.unique]
    if not guarded or (len(written) == 1 and not _touches(statement.node, guarded[0])):
        return None
    if len(written) > 1:
        raise refuse("SP139", guarded[0].name)
    return guarded[0]


def _touches(node: Tree, table: Table) -> bool:
    return kind(node) != "update_stmt" or bool(reserved_columns(unwrap(node), table))


def returns_both(node: Tree, table: Table) -> bool:
    """Whether only the old rows beside the new ones tell which reservations go, and which come."""
    if kind(node) == "merge_stmt":
        return True
    return updates_on_conflict(node) and not _keeps_reserved(node.insert_stmt, table)


def updates_on_conflict(node: Tree) -> bool:
    """Whether there is ON CONFLICT DO UPDATE."""
    return kind(node) == "insert_stmt" and bool(node.insert_stmt.on_conflict_clause.target_list)


def _keeps_reserved(insert: Tree, table: Table) -> bool:
    """Whether ON CONFLICT DO UPDATE leaves alone what reservations hold, and these tell rows apart by their key."""
    return not reserved_columns(insert.on_conflict_clause, table) and set(table.primary_key) == set(table.key)


def with_hidden(statement: Statement, table: Table, both: bool) -> Statement:
    """The statement that also returns the hidden columns, as its last; *both*: of the new and of the old rows."""
    write = unwrap(statement.node)
    data = statement.numbered.encode()
    tokens = postgast.scan(statement.numbered).tokens
    end = next((it.start for it in tokens[::-1] if it.token == pb.ASCII_59), len(data))
    start = _returning_end(tokens, end)
    rows = (NEW_ROW, OLD_ROW) if both else (quote(alias_of(write)),)
    listed = ", ".join(f"{row}.{quote(name)}::text" for row in rows for name in hidden_columns(table))
    named = f" WITH (OLD AS {OLD_ROW}, NEW AS {NEW_ROW}) " if both else ""
    if write.returning_clause.exprs:
        text = f"{data[:start].decode()}{named}{data[start:end].decode()}\n, {listed} {data[end:].decode()}"
    else:
        text = f"{data[:end].decode()}\nRETURNING {named}{listed} {data[end:].decode()}"
    return Statement(text, statement.names, statement.places, statement.lists)


def _returning_end(tokens: Sequence[Any], end: int) -> int:
    """Where the statement's own RETURNING ends: that of a function is in parentheses. *end* if there is none."""
    depth, found = 0, end
    for token in tokens:
        depth += (token.token == pb.ASCII_40) - (token.token == pb.ASCII_41)
        if token.token == pb.RETURNING and depth == 0:
            found = token.end
    return found
