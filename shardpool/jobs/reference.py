"""Making copies of a reference table equal: one shard's rows become those of all, or of a table elsewhere."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg2

from shardpool.bulk.digest import digest_in
from shardpool.bulk.translate import refused
from shardpool.bulk.upsert import Upsert
from shardpool.bulk.values import to_text
from shardpool.errors import JobRefused, UnknownTable
from shardpool.jobs.keyed_rows import Key, delete_rows
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

if TYPE_CHECKING:
    from shardpool.engines import Engines

#: Whoever writes the table is waited for, and waits, so long at most.
LOCK_TIMEOUT = "10s"


def repair_reference(engines: Engines, topology: Topology, name: str, source: str) -> list[str]:
    """Give all shards the rows that the copy on *source* has; return the shards whose copies were changed.

    Nobody writes the table meanwhile. If it is interrupted, some shards may be done: run it again. Raise `JobRefused`
    if the table has no primary key or is none, `ShardUnavailable`, and `LoadError` for rows that others refer to.
    """
    table = topology.tables.get(name)
    if table is None:
        raise UnknownTable(name, topology.keyspace, list(topology.tables))
    if table.sharded or not table.primary_key:
        raise JobRefused(f"{name} is no reference table with a primary key")
    if source not in topology.shard_map.shards:
        raise JobRefused(f"there is no shard {source!r} (shards: {', '.join(sorted(topology.shard_map.shards))})")
    relation = f"{quote(topology.keyspace)}.{quote(name)}"
    changed = []
    with ExitStack() as stack:
        # In the order in which writes of reference tables visit the shards.
        connections = {shard: stack.enter_context(engines.borrow(shard)) for shard in sorted(topology.shard_map.shards)}
        for shard, connection in connections.items():
            _on(
                shard, connection, f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; LOCK TABLE {relation} IN EXCLUSIVE MODE"
            )
        with connections[source].cursor() as cursor:
            expected, rows = digest_in(cursor, relation, table.columns), all_rows(cursor, relation, table)
        for shard, connection in connections.items():
            with connection.cursor() as cursor:
                if digest_in(cursor, relation, table.columns) != expected:
                    try:
                        make_equal(cursor, topology.keyspace, table, rows)
                    except psycopg2.Error as error:
                        raise refused(error, shard, gone=bool(connection.closed)) from error
                    if digest_in(cursor, relation, table.columns) != expected:
                        raise JobRefused(f"{name} on shard {shard} still differs: are there triggers on it?")
                    changed.append(shard)
        for shard in changed:
            connections[shard].commit()
    return changed


def make_equal(cursor: Any, schema: str, table: Table, rows: Mapping[Key, bytes]) -> int:
    """Write what is missing or different, and delete what is too much; return how many rows that was. Rows that stay
    are not deleted meanwhile.
    """
    relation = f"{quote(schema)}.{quote(table.name)}"
    here = all_rows(cursor, relation, table)
    written = [record for key, record in rows.items() if here.get(key) != record]
    if written:
        Upsert(table)(cursor.connection, "", relation, table.insertable, written, 0)
    gone = [key for key in here if key not in rows]
    if gone:
        delete_rows(cursor, schema, table, gone)
    return len(written) + len(gone)


def all_rows(cursor: Any, relation: str, table: Table) -> dict[Key, bytes]:
    """Return the rows of *relation* by their keys, as records of COPY's text format."""
    data = io.BytesIO()
    cursor.copy_expert(f"COPY {relation} ({', '.join(map(quote, table.insertable))}) TO STDOUT", data)
    places = [table.insertable.index(name) for name in table.primary_key]
    found = {}
    for record in data.getvalue().split(b"\n")[:-1]:
        fields = record.split(b"\t")
        found[tuple(to_text(fields[place]) for place in places)] = record
    return found


def _on(shard: str, connection: Any, statement: str) -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    except psycopg2.Error as error:
        raise refused(error, shard, gone=bool(connection.closed)) from error
