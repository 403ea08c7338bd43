"""Applying noted changes: the rows of the noted keys are read again and put in the place of what the keyspace has.

To do it twice changes nothing. Nothing else writes the keyspace's tables meanwhile, and there are no foreign keys yet.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shardpool.bulk.fields import Fields
from shardpool.bulk.keys import CompositePlaces, Places
from shardpool.bulk.layout import COPY_TEXT
from shardpool.bulk.values import to_field
from shardpool.engines import Engines
from shardpool.jobs.following import following_moves
from shardpool.jobs.keyed_rows import Key, delete_rows, read_rows
from shardpool.jobs.migrate.capture import SCHEMA
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table


@dataclass
class Changes:
    """Noted keys by table, and the ids of the notes."""

    ids: list[int] = field(default_factory=list)
    keys: dict[str, dict[Key, None]] = field(default_factory=dict)


def read_changes(cursor: Any, limit: int) -> Changes:
    """Return the oldest *limit* notes that the cursor's snapshot sees."""
    found = Changes()
    cursor.execute(f"SELECT id, name, key FROM {SCHEMA}.changed ORDER BY id LIMIT %s", (limit,))
    for number, name, key in cursor:
        found.ids.append(number)
        found.keys.setdefault(name, {})[tuple(key)] = None
    return found


def forget_changes(cursor: Any, changes: Changes) -> None:
    cursor.execute(f"DELETE FROM {SCHEMA}.changed WHERE id = ANY(%s)", (changes.ids,))


def apply_changes(cursor: Any, changes: Changes, router: Router, tables: Mapping[str, Table]) -> None:
    """Bring the noted rows, as the cursor's snapshot has them, to the keyspace. One transaction per shard."""
    following_moves(router, lambda topology: _apply(cursor, changes, router.engines, topology, tables))


def _apply(cursor: Any, changes: Changes, engines: Engines, topology: Topology, tables: Mapping[str, Table]) -> None:
    """The same for one map. It may be done again: rows are replaced."""
    work: dict[str, list[tuple[str, Table, list[Key], list[bytes]]]] = {}
    for name, noted in changes.keys.items():
        table = tables[name]
        keys = list(noted)
        for shard, schema, some, records in _parts(topology, table, keys, read_rows(cursor, table, keys)):
            work.setdefault(shard, []).append((schema, table, some, records))
    for shard, parts in work.items():
        with engines.borrow(shard) as connection:
            with connection.cursor() as target:
                for schema, table, some, _ in parts:
                    delete_rows(target, schema, table, some)
                for schema, table, _, records in parts:
                    columns = ", ".join(map(quote, table.insertable))
                    data = io.BytesIO(b"\n".join([*records, b""]) if records else b"")
                    target.copy_expert(f"COPY {quote(schema)}.{quote(table.name)} ({columns}) FROM STDIN", data)
            connection.commit()


def _parts(
    topology: Topology, table: Table, keys: Sequence[Key], records: Sequence[bytes]
) -> list[tuple[str, str, list[Key], list[bytes]]]:
    """Return (shard, schema, keys, records) of each partition that has some of the keys, or of every shard."""
    target = topology.tables[table.name]
    if not target.sharded:
        return [(shard, topology.keyspace, list(keys), list(records)) for shard in sorted(topology.shard_map.shards)]
    placements = topology.shard_map.placements
    lows = [it.partition.low for it in placements]
    places: Any = (Places if len(target.key) == 1 else CompositePlaces)(Fields(COPY_TEXT), target, lows)
    some: dict[int, tuple[list[Key], list[bytes]]] = {}

    def place_of(raws: Sequence[bytes], names: Sequence[str]) -> int:
        picked = tuple(raws[names.index(name)] for name in target.key)
        return int(places[picked[0] if len(picked) == 1 else picked])

    for key in keys:
        place = place_of([to_field(value) for value in key], table.primary_key)
        some.setdefault(place, ([], []))[0].append(key)
    for record in records:
        some[place_of(record.split(b"\t"), table.insertable)][1].append(record)
    return [(placements[at].shard, placements[at].partition.schema, *found) for at, found in some.items()]
