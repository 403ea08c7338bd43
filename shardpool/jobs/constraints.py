"""What a keyspace's tables promise, as the servers have it: foreign keys, unique columns; and an order to load in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from shardpool.errors import JobRefused
from shardpool.jobs.following import following_moves
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology

_FOREIGN_KEYS = """
SELECT t.relname, f.relname,
       ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k(n, place)
             JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY place),
       ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY k(n, place)
             JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.n ORDER BY place)
FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_class f ON f.oid = c.confrelid
WHERE c.contype = 'f' AND t.relnamespace = ANY(%s::regnamespace[]) ORDER BY 1, 3::text
"""
_UNIQUE = """
SELECT t.relname,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum = ANY(i.indkey))
FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
WHERE i.indisunique AND t.relnamespace = ANY(%s::regnamespace[]) ORDER BY 1, 2::text
"""


@dataclass(frozen=True)
class ForeignKey:
    """Rows of *table* refer by *columns* to *parent_columns* of *parent*."""

    table: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


@dataclass(frozen=True)
class Constraints:
    """Foreign keys, and (table, columns) of unique indexes; an index over an expression shows the columns it has."""

    foreign_keys: Sequence[ForeignKey]
    unique: Sequence[tuple[str, frozenset[str]]]


def read_constraints(router: Router) -> Constraints:
    """Read them from one partition and from the shared schema. Raise `ShardUnavailable`."""

    def read(topology: Topology) -> Constraints:
        placement = topology.shard_map.placements[0]
        schemas = [quote(placement.partition.schema), quote(topology.keyspace)]
        with router.engines.borrow(placement.shard) as connection, connection.cursor() as cursor:
            return constraints_in(cursor, schemas)

    return following_moves(router, read)


def constraints_in(cursor: Any, schemas: Sequence[str]) -> Constraints:
    """Read the constraints of the tables in *schemas*, which are quoted."""
    cursor.execute(_FOREIGN_KEYS, (list(schemas),))
    keys = [
        ForeignKey(table, tuple(columns), parent, tuple(parents))
        for table, parent, columns, parents in cursor.fetchall()
    ]
    cursor.execute(_UNIQUE, (list(schemas),))
    return Constraints(keys, [(table, frozenset(columns)) for table, columns in cursor.fetchall()])


def stages(tables: Iterable[str], foreign_keys: Iterable[ForeignKey]) -> dict[str, int]:
    """Return table -> stage: a table's parents are in earlier stages. Raise `JobRefused` for a cycle."""
    names = list(tables)
    graph: dict[str, set[str]] = {name: set() for name in names}
    for key in foreign_keys:
        if key.table in graph and key.parent in graph and key.parent != key.table:
            graph[key.table].add(key.parent)
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise JobRefused(f"foreign keys form a cycle, so no order of loading satisfies them: {cycle}") from error
    found: dict[str, int] = {}
    for name in order:
        found[name] = max((found[parent] + 1 for parent in graph[name]), default=0)
    return {name: found[name] for name in names}


def self_referring(foreign_keys: Iterable[ForeignKey]) -> frozenset[str]:
    """Return the tables that refer to themselves: their rows in one partition must be loaded together."""
    return frozenset(key.table for key in foreign_keys if key.table == key.parent)
