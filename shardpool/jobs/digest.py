"""Digests of a keyspace's tables, and what differs by them (`bulk.digest` has how they are made)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from shardpool.bulk.digest import Digest, digest_in, sum_of
from shardpool.errors import JobRefused
from shardpool.jobs.following import following_moves
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

if TYPE_CHECKING:
    from shardpool.engines import Engines

NO_SNAPSHOTS: Mapping[str, str] = {}


def digests_of(router: Router, tables: Mapping[str, Table]) -> dict[str, list[Digest]]:
    """Return the digests of a keyspace's tables: one for a sharded table, one per shard for a reference table, in the
    order of the shards' names. Partitions may move meanwhile, but nobody may write them.
    """
    known: _Known = {}
    return following_moves(router, lambda topology: _digests(router.engines, topology, tables, known))


#: (table, schema, and the shard if it is on each) -> digest. A partition has the same rows wherever it is.
_Known = dict[tuple[str, str, str], Digest]


def _digests(
    engines: Engines,
    topology: Topology,
    tables: Mapping[str, Table],
    known: _Known,
    snapshots: Mapping[str, str] = NO_SNAPSHOTS,
) -> dict[str, list[Digest]]:
    """Return all digests, of which those that are *known* are not read again."""

    def places(name: str, shard: str) -> list[tuple[str, str, str]]:
        if not topology.tables[name].sharded:
            return [(name, topology.keyspace, shard)]
        return [(name, it.schema, "") for it in topology.shard_map.by_shard().get(shard, ())]

    def on_shard(shard: str) -> dict[str, Digest]:
        found = {}
        with engines.borrow(shard) as connection, connection.cursor() as cursor:
            _see(cursor, snapshots.get(shard))
            for name, table in tables.items():
                for place in places(name, shard):
                    if place not in known:
                        relation = f"{quote(place[1])}.{quote(name)}"
                        known[place] = digest_in(cursor, relation, table.columns)
                found[name] = sum_of([known[place] for place in places(name, shard)])
        return found

    shards = sorted(topology.shard_map.shards)
    with ThreadPoolExecutor(len(shards), thread_name_prefix="shardpool-digest") as threads:
        each = list(threads.map(on_shard, shards))
    return {
        name: [sum_of([it[name] for it in each])] if topology.tables[name].sharded else [it[name] for it in each]
        for name in tables
    }


def whole(table: str, digests: Sequence[Digest]) -> Digest:
    """Return the digest of a table whose copies are alike. Raise `JobRefused` if they are not."""
    if len(set(digests)) != 1:
        raise JobRefused(f"the copies of reference table {table} on the shards differ: {len(set(digests))} versions")
    return digests[0]


def differing_references(
    engines: Engines, topology: Topology, snapshot: str | None = None
) -> dict[str, dict[str, int]]:
    """Return the reference tables whose copies differ: table -> shard -> rows. While they are written they are alike
    only in a *snapshot*, as `Router.snapshot` exports it. Raise `ShardUnavailable`."""
    tables = {name: table for name, table in topology.tables.items() if not table.sharded}
    shards = sorted(topology.shard_map.shards)
    return {
        name: {shard: rows for shard, (rows, _) in zip(shards, digests, strict=True)}
        for name, digests in _digests(engines, topology, tables, {}, _names(snapshot)).items()
        if len(set(digests)) > 1
    }


def differing_reservations(
    engines: Engines, topology: Topology, snapshot: str | None = None
) -> dict[str, tuple[int, int]]:
    """Return the tables of reservations that do not agree with their tables: their rows, and the values there. While
    they are written they agree only in a *snapshot*, as `Router.snapshot` exports it. Raise `ShardUnavailable`."""
    snapshots = _names(snapshot)
    found = {}
    for table in topology.tables.values():
        for column, name in table.unique_columns.items():
            if name in topology.tables:
                mine = _digest_of_columns(engines, topology, name, column, table.key, snapshots)
                theirs = _digest_of_columns(engines, topology, table.name, column, table.key, snapshots)
                if mine != theirs:
                    found[name] = mine[0], theirs[0]
    return found


def _digest_of_columns(
    engines: Engines, topology: Topology, table: str, column: str, key: Sequence[str], snapshots: Mapping[str, str]
) -> Digest:
    parts = []
    columns = [found for name in (column, *key) if (found := topology.tables[table].column(name)) is not None]
    for shard, partitions in topology.shard_map.by_shard().items():
        with engines.borrow(shard) as connection, connection.cursor() as cursor:
            _see(cursor, snapshots.get(shard))
            for partition in partitions:
                relation = f"{quote(partition.schema)}.{quote(table)} WHERE {quote(column)} IS NOT NULL"
                parts.append(digest_in(cursor, relation, columns))
    return sum_of(parts)


def _names(snapshot: str | None) -> Mapping[str, str]:
    """Return the shards' own snapshots of an exported one, if there is one."""
    found: Mapping[str, str] = NO_SNAPSHOTS if snapshot is None else json.loads(snapshot)
    return found


def _see(cursor: Any, snapshot: str | None) -> None:
    """Have the transaction, which has just begun, see this snapshot of its shard, if there is one."""
    if snapshot is not None:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SET TRANSACTION SNAPSHOT %s", (snapshot,))


def compare(expected: Mapping[str, Digest], found: Mapping[str, Sequence[Digest]]) -> None:
    """Raise `JobRefused` that names the tables which differ."""
    problems = [
        f"{name}: {expected[name][0]:,} rows in the database, {', '.join(f'{rows:,}' for rows, _ in digests)} in the "
        "keyspace, or others"
        for name, digests in sorted(found.items())
        if any(digest != expected[name] for digest in digests)
    ]
    if problems:
        raise JobRefused("the rows differ, do not switch over: " + "; ".join(problems))
