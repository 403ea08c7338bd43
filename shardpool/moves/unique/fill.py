"""Reserving the values of rows that were there before: each chunk in one transaction, which has locked its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shardpool import faults
from shardpool.executor.transaction import Transaction
from shardpool.moves.unique.locking import LOCKING, named, patiently, texts
from shardpool.moves.unique.plan import SHOWN, Duplicate
from shardpool.planner.writes.guarded import ENSURE, Entry, reservation_steps
from shardpool.router import Router
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

CHUNK_ROWS = 1000


class Filler:
    """Reserves a column's values, partition by partition. *told* is called with the rows of each chunk."""

    def __init__(self, router: Router, table: Table, column: str, told: Callable[[int], object]) -> None:
        self._router, self._column, self._told = router, column, told
        self._table, self._name = table, dict(table.unique)[column]
        self._order = table.primary_key
        self.duplicates: list[Duplicate] = []

    def fill(self, partition: int) -> None:
        """Reserve the values of a partition's rows, until `duplicates` has as many as are told. Raise what a
        transaction raises that others have held up for long."""
        after: Entry | None = ()
        while after is not None and len(self.duplicates) < SHOWN:
            after, rows, found = patiently(self._chunk, partition, after)
            self.duplicates += found
            self._told(rows)
            faults.fault_point("unique:filled-one")

    def _chunk(self, partition: int, after: Entry) -> tuple[Entry | None, int, list[Duplicate]]:
        """Reserve the values of the rows behind the primary key *after*. Return the last one's, None at the end; how
        many they are; and values that other rows have."""
        with self._router.transaction() as transaction:
            transaction.gives_way = True
            upto = self._bound(transaction, partition, after)
            rows = self._lock(transaction, partition, after, upto)
            return upto, len(rows), self._reserve(transaction, rows)

    def _bound(self, transaction: Transaction, partition: int, after: Entry) -> Entry | None:
        words = (
            f"SELECT {texts(self._order)} FROM {named(self._table.name)} WHERE {self._range(after, None)} "
            f"ORDER BY {', '.join(map(self._own, self._order))} OFFSET {CHUNK_ROWS - 1} LIMIT 1"
        )
        found = self._on_partition(transaction, partition, words, _bounds(after, None))
        return tuple(found[0]) if found else None

    def _lock(self, transaction: Transaction, partition: int, after: Entry, upto: Entry | None) -> Sequence[Entry]:
        """Return the rows that have a value, which stay as they are until the transaction ends."""
        listed = texts((self._column, *self._table.key))
        words = f"SELECT {listed} FROM {named(self._table.name)} WHERE {self._range(after, upto)} FOR SHARE"
        return [tuple(row) for row in self._on_partition(transaction, partition, words, _bounds(after, upto))]

    def _range(self, after: Entry, upto: Entry | None) -> str:
        columns = [found for name in self._order if (found := self._table.column(name)) is not None]
        key = ", ".join(map(self._own, self._order))
        parts = [f"{named(self._column)} IS NOT NULL"]
        for sign, name, bound in ((">", "after", after), ("<=", "upto", upto)):
            if bound:
                values = ", ".join(f"%({name}{place})s::{it.type}" for place, it in enumerate(columns))
                parts.append(f"({key}) {sign} ({values})")
        return " AND ".join(parts)

    def _own(self, name: str) -> str:
        """The column, and not its text, which has its name in the result."""
        return f"{named(self._table.name)}.{named(name)}"

    def _on_partition(
        self, transaction: Transaction, partition: int, words: str, parameters: Mapping[str, Any]
    ) -> Sequence[Any]:
        topology = transaction.topology
        placement = topology.shard_map.placement(partition)
        sql = LOCKING + topology.search_paths[partition] + words
        # As a write: its locks are to be prepared with the reservations, and to outlive what they are prepared for.
        return transaction.on_shard(placement.shard, sql, parameters, [placement], True).rows

    def _reserve(self, transaction: Transaction, rows: Sequence[Entry]) -> list[Duplicate]:
        """Reserve the rows' values; return those that other rows have."""
        found: list[Duplicate] = []
        keys: dict[str | None, Entry] = {}
        for value, *key in rows:
            if value in keys:
                found.append(_duplicate(value, keys[value], key))
            else:
                keys[value] = tuple(key)
        reservations = transaction.topology.tables[self._name]
        entries = [(value, *key) for value, key in keys.items()]
        for step in reservation_steps(reservations, self._column, entries, ENSURE, transaction.topology):
            assert step.placement is not None
            done = transaction.on_shard(step.shard, LOCKING + step.sql, step.parameters, [step.placement], True)
            if done.rowcount != step.expected:
                for value, *key in self._holders(transaction, step.placement.partition.id, list(keys)):
                    if tuple(key) != keys[value]:
                        found.append(_duplicate(value, keys[value], key))
        return found

    def _holders(self, transaction: Transaction, partition: int, values: list[str | None]) -> Sequence[Any]:
        column = self._table.column(self._column)
        assert column is not None
        words = (
            f"SELECT {texts((self._column, *self._table.key))} FROM {named(self._name)} "
            f"WHERE {named(self._column)} = ANY (%(values)s::text[]::{column.type}[])"
        )
        return self._on_partition(transaction, partition, words, {"values": values})


def _bounds(after: Entry, upto: Entry | None) -> dict[str, Any]:
    bounds = (("after", after), ("upto", upto or ()))
    return {f"{name}{place}": value for name, bound in bounds for place, value in enumerate(bound)}


def _duplicate(value: str | None, one: Sequence[str | None], other: Sequence[str | None]) -> Duplicate:
    return Duplicate(str(value), (", ".join(map(str, one)), ", ".join(map(str, other))))


def partitions_of(topology: Topology) -> list[int]:
    """The partitions, shard by shard."""
    return [it.id for partitions in topology.shard_map.by_shard().values() for it in partitions]
