"""Drift: where a shard differs from what the catalog says, or one partition from the others.

Columns and primary keys are compared with the catalog. For indexes, constraints, triggers and defaults the catalog has
only the statements that made them, so that the reference is what most partitions have.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardpool.catalog import Catalog
from shardpool.ddl.features import Feature, read_features
from shardpool.ddl.introspect import find_behind, read_columns, search_path
from shardpool.ddl.log import moving_partitions, read_log
from shardpool.topology.names import partition_schema
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

if TYPE_CHECKING:
    from shardpool.engines import Engines


@dataclass(frozen=True, order=True)
class Drift:
    """One difference. `table` is empty where a whole schema or shard is meant."""

    shard: str
    schema: str
    table: str
    message: str

    def __str__(self) -> str:
        place = ".".join(part for part in (self.schema, self.table) if part)
        return f"shard {self.shard}, {place}: {self.message}"


@dataclass(frozen=True)
class _Schema:
    """What one schema on one shard consists of."""

    shard: str
    name: str
    tables: Mapping[str, Table]
    features: frozenset[Feature]


def find_drift(catalog: Catalog, engines: Engines, topology: Topology) -> list[Drift]:
    """Return all differences, sorted. Raise `ShardUnavailable` for a shard that cannot be asked."""
    moving = {partition_schema(topology.keyspace, number) for number in moving_partitions(catalog)}
    done = {it.id for it in read_log(catalog, "done")}
    found: list[Drift] = []
    if read_log(catalog, "running"):
        message = "a schema change is unfinished: call resume()"
        found += [Drift(shard, topology.keyspace, "", message) for shard in topology.shard_map.shards]
    partitions: list[_Schema] = []
    shared: list[_Schema] = []
    placed = topology.shard_map.by_shard()
    for shard in sorted(topology.shard_map.shards):
        with engines.borrow(shard) as connection, connection.cursor() as cursor:
            expected = {it.schema for it in placed.get(shard, ())}
            present = _schemas(cursor, topology.keyspace)
            found += _misplaced(shard, expected - moving, present - moving, topology.keyspace)
            found += _behind(cursor, shard, topology)
            if topology.keyspace in present:
                found += _unmarked(cursor, shard, topology.keyspace, done)
                shared.append(_read(cursor, shard, topology.keyspace, topology.keyspace))
            partitions += [_read(cursor, shard, it, topology.keyspace) for it in sorted(expected & present - moving)]
    for schemas, sharded in ((partitions, True), (shared, False)):
        tables = {it.name: it for it in topology.tables.values() if it.sharded == sharded}
        views = {it.name for it in topology.views.values() if it.sharded == sharded}
        found += _compare(schemas, tables, views)
    return sorted(found)


# -- schemas --------------------------------------------------------------------------------------------------------


def _schemas(cursor: Any, keyspace: str) -> set[str]:
    """Return the schemas of a shard that carry the keyspace's name, or that of one of its partitions."""
    cursor.execute("SELECT nspname FROM pg_namespace")
    ours = re.compile(re.escape(keyspace) + r"(_p\d{4,})?")
    return {name for (name,) in cursor.fetchall() if ours.fullmatch(name)}


def _misplaced(shard: str, expected: set[str], present: set[str], keyspace: str) -> Iterator[Drift]:
    for schema in sorted((expected | {keyspace}) - present):
        yield Drift(shard, schema, "", "the schema is missing")
    for schema in sorted(present - expected - {keyspace}):
        yield Drift(shard, schema, "", "the schema is there, but the shard map does not place this partition here")


def _behind(cursor: Any, shard: str, topology: Topology) -> Iterator[Drift]:
    for schema, name in find_behind(cursor, topology.keyspace, topology.sharded_names):
        yield Drift(shard, schema, name, "a relation of a sharded table's name would be found without its partition")


def _unmarked(cursor: Any, shard: str, keyspace: str, done: set[int]) -> Iterator[Drift]:
    cursor.execute(search_path(keyspace))
    cursor.execute("SELECT to_regclass('shardpool_ddl') IS NOT NULL")
    if not cursor.fetchone()[0]:
        yield Drift(shard, keyspace, "shardpool_ddl", "the table is missing")
        return
    cursor.execute("SELECT id FROM shardpool_ddl")
    missing = done - {number for (number,) in cursor.fetchall()}
    if missing:
        numbers = ", ".join(str(number) for number in sorted(missing))
        yield Drift(shard, keyspace, "shardpool_ddl", f"statements of the catalog were not applied: {numbers}")


def _read(cursor: Any, shard: str, schema: str, keyspace: str) -> _Schema:
    cursor.execute(search_path(keyspace, schema))
    return _Schema(shard, schema, read_columns(cursor, schema), read_features(cursor, schema))


# -- tables ---------------------------------------------------------------------------------------------------------


def _compare(schemas: list[_Schema], tables: Mapping[str, Table], views: set[str]) -> Iterator[Drift]:
    usual = _usual(schemas)
    for it in schemas:
        for name in sorted(tables.keys() - it.tables.keys()):
            yield Drift(it.shard, it.name, name, "the table is missing")
        for name in sorted(it.tables.keys() - tables.keys()):
            yield Drift(it.shard, it.name, name, "the table is not in the catalog")
        common = tables.keys() & it.tables.keys()
        for name in sorted(common):
            for message in _columns(tables[name], it.tables[name]):
                yield Drift(it.shard, it.name, name, message)
        present = {feature.name for feature in it.features if feature.kind == "view"}
        for name in sorted(views - present):
            yield Drift(it.shard, it.name, name, "the view is missing")
        for name in sorted(present - views):
            yield Drift(it.shard, it.name, name, "the view is not in the catalog")
        yield from _features(it, usual, common | (views & present))


def _usual(schemas: list[_Schema]) -> frozenset[Feature]:
    """Return the facts of the majority; the first schema's where there is none."""
    counts = Counter(it.features for it in schemas)
    return counts.most_common(1)[0][0] if counts else frozenset()


def _columns(expected: Table, got: Table) -> Iterator[str]:
    for column in expected.columns:
        other = got.column(column.name)
        if other is None:
            yield f"column {column.name!r} is missing"
        elif other != column:
            yield f"column {column.name!r} is {other}, expected {column}"
    for column in got.columns:
        if expected.column(column.name) is None:
            yield f"column {column.name!r} is not in the catalog"
    if got.primary_key != expected.primary_key:
        yield f"the primary key is {got.primary_key}, expected {expected.primary_key}"


def _features(schema: _Schema, usual: frozenset[Feature], tables: set[str]) -> Iterator[Drift]:
    """Differences from the majority, for tables that are there on both sides. An object's change is one difference."""
    mine = {it[:3]: it.definition for it in schema.features - usual if it.table in tables}
    theirs = {it[:3]: it.definition for it in usual - schema.features if it.table in tables}
    for key in sorted(mine.keys() | theirs.keys()):
        kind, table, name = key
        if kind == "column" and (key not in mine or key not in theirs):
            continue  # a missing or added column is told by the catalog
        what = f"{kind} {name!r}" if name else "the table"
        if key not in mine:
            message = f"{what} is missing, most have: {theirs[key]}"
        elif key not in theirs:
            message = f"{what} is there, most do not have it: {mine[key]}"
        else:
            message = f"{what} is {mine[key]}, most have: {theirs[key]}"
        yield Drift(schema.shard, schema.name, table, message)
