"""Loading rows of a table whose columns are unique over all partitions: the reservations that belong to them.

A table of reservations has columns of the same types as the table itself (see `ddl.keys`), so that the same fields of a
record mean the same in both. Where something would store another value than the record's, the load is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg2

from shardpool.bulk.fields import Fields
from shardpool.bulk.layout import Layout
from shardpool.bulk.records import Block
from shardpool.bulk.route import RecordRouter
from shardpool.bulk.translate import refused
from shardpool.errors import StalePlacement
from shardpool.planner.refusals import refuse
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

if TYPE_CHECKING:
    from shardpool.engines import Engines

#: What changes a new row before it is stored, and defaults of columns that it has no values for.
_ALTERING = """
SELECT 'trigger ' || tgname FROM pg_trigger
WHERE tgrelid = ANY(%(tables)s::regclass[]) AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 7 = 7
UNION ALL SELECT 'default of ' || attname || ', which the rows do not have' FROM pg_attribute
WHERE attrelid = (%(tables)s::regclass[])[1] AND attname = ANY(%(missing)s) AND atthasdef
"""


@dataclass(frozen=True)
class Reservations:
    """Makes of records, which have fields at `places`, those for the table of reservations."""

    table: Table
    columns: tuple[str, ...]
    places: tuple[int, ...]
    fields: Fields
    router: RecordRouter
    delimiter: bytes

    def of(self, block: Block) -> Block:
        """Return the records of the rows that have a value, each with its partition. Raise `BadRow`."""
        found = Block([], block.first, block.plain, [])
        assert found.starts is not None
        value, *keys = self.places
        for index, record in enumerate(block.records):
            raws = record.split(self.delimiter) if block.plain else self.fields.split(record)
            # A record that lacks fields is refused where the row itself is written.
            if len(raws) > max(self.places) and self.fields.decode(raws[value]) is not None:
                found.records.append(self.delimiter.join([raws[value], *(raws[key] for key in keys)]))
                found.starts.append(block.line(index))
        self.router.route(found)
        return found


def reservations_of(
    engines: Engines, topology: Topology, table: Table, columns: Sequence[str], layout: Layout, source: str
) -> list[Reservations]:
    """Return how the reservations of records with *columns* are made, none for a table without unique columns.

    Raise `UnsupportedStatement` for a table that holds reservations itself, and where a record's value may not be the
    one that is stored; `StalePlacement`, also in the moment in which a column begins to be made unique;
    `ShardUnavailable`, `PoolTimeout`.
    """
    if table.name in topology.reservations:
        raise refuse("SP139", table.name)
    lows = [partition.low for partition in topology.shard_map.partitions]
    fields = Fields(layout)
    found = []
    for column, name in table.unique:
        reservation = topology.tables.get(name)
        if any(it.id < dict(table.building).get(column, 0) for it in topology.shard_map.partitions):
            raise StalePlacement(f"{table.name}.{column} is just being made unique: load again in a moment")
        if reservation is None:
            raise refuse("SP139", f"{table.name} (its table {name} was not created)")
        if column in columns:
            own = (column, *table.key)
            router = RecordRouter(reservation, lows, layout, fields, own, source)
            places = tuple(columns.index(it) for it in own)
            found.append(Reservations(reservation, own, places, fields, router, layout.delimiter))
    if table.unique:
        _check_unaltered(engines, topology, table, [it for it, _ in table.unique if it not in columns])
    return found


def _check_unaltered(engines: Engines, topology: Topology, table: Table, missing: list[str]) -> None:
    """Raise `UnsupportedStatement` if rows may be stored with other values than their records have."""
    placement = topology.shard_map.placements[0]
    schema = quote(placement.partition.schema)
    names = [f"{schema}.{quote(name)}" for name in (table.name, *dict(table.unique).values())]
    with engines.borrow(placement.shard) as connection:
        try:
            with connection.cursor() as cursor:
                cursor.execute(_ALTERING, {"tables": names, "missing": missing})
                reasons = [reason for (reason,) in cursor.fetchall()]
        except psycopg2.Error as error:
            raise refused(error, placement.shard, gone=bool(connection.closed)) from error
    if reasons:
        raise refuse("SP139", f"{table.name} ({', '.join(reasons)})")
