"""The facts that the checks judge: of each server by one statement, of the catalog by a few."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import text

from shardpool.catalog import Catalog, ShardIdentity
from shardpool.cli.failures import describe
from shardpool.cli.survey import ask_shards
from shardpool.config import Config
from shardpool.errors import ExecutionError, TopologyError

if TYPE_CHECKING:
    from shardpool.ddl import Drift
    from shardpool.engines import Engines
    from shardpool.topology.shard_map import Topology

T = TypeVar("T")

# What not every version has is read as JSON of the row, which then lacks it.
_SERVER = """
SELECT to_jsonb(d), current_setting('server_version'), current_setting('server_version_num')::int,
       current_setting('server_encoding'), current_setting('TimeZone'),
       current_setting('max_prepared_transactions')::int, current_setting('wal_level'),
       (SELECT system_identifier::text FROM pg_control_system()), extract(epoch FROM clock_timestamp())::float8
FROM (SELECT * FROM pg_database WHERE datname = current_database()) d
"""
_PREPARED = """
SELECT gid, extract(epoch FROM now() - prepared)::float8 FROM pg_prepared_xacts
WHERE database = current_database() AND starts_with(gid, 'shardpool:')
"""
_TIME_ZONE = "SELECT timezone FROM shardpool_catalog.keyspace WHERE name = :keyspace"
_RUNNING_DDL = """
SELECT statement FROM shardpool_catalog.ddl WHERE keyspace = :keyspace AND state = 'running' ORDER BY id
"""
_RUNNING_MOVES = """
SELECT format('partition %s from %s to %s, at step %s', partition, source, target, step)
FROM shardpool_catalog.move WHERE keyspace = :keyspace AND state = 'running' ORDER BY id
"""
_UNIQUE_BUILDS = """
SELECT format('%s %s', table_name, column_name) FROM shardpool_catalog.unique_build WHERE keyspace = :keyspace
"""
_LEFTOVERS = """
SELECT format('schema %s on %s', c.name, c.shard)
FROM shardpool_catalog.cleanup c JOIN shardpool_catalog.move m ON m.id = c.move
WHERE c.keyspace = :keyspace AND m.state <> 'running' ORDER BY c.id
"""
#: The row's columns for the rules of sorting, in the versions that have them.
_COLLATION = {
    "datlocale": "locale",
    "daticulocale": "locale",
    "datcollate": "collate",
    "datctype": "ctype",
    "datcollversion": "version",
}
_PROVIDERS = {"b": "builtin", "c": "libc", "i": "icu"}


@dataclass(frozen=True)
class ServerFacts:
    """What one server says about itself. `skew` is its clock minus ours, in seconds, give or take `precision`."""

    version: str
    version_number: int
    encoding: str
    collation: str
    time_zone: str
    max_prepared_transactions: int
    wal_level: str
    identity: ShardIdentity
    skew: float
    precision: float
    prepared: Sequence[tuple[str, float]]

    @property
    def major(self) -> int:
        return self.version_number // 10000


@dataclass(frozen=True)
class CatalogFacts:
    """What the catalog says; `topology` is None if it has no valid one, and then `fault` says why."""

    topology: Topology | None = None
    fault: str = ""
    time_zone: str = ""
    identities: Mapping[str, ShardIdentity] = field(default_factory=dict)
    running_ddl: Sequence[str] = ()
    running_moves: Sequence[str] = ()
    leftovers: Sequence[str] = ()
    #: Table and column, with a space between.
    unique_builds: Sequence[str] = ()


@dataclass(frozen=True)
class ClusterFacts:
    """Everything the checks may know. `unreachable` and `drift_fault` are reasons; `drift` is None if not looked at."""

    config: Config
    servers: Mapping[str, ServerFacts]
    unreachable: Mapping[str, str]
    catalog: CatalogFacts
    drift: Sequence[Drift] | None
    drift_fault: str = ""
    #: Reference tables whose copies differ: table -> shard -> rows. None if not looked at.
    references: Mapping[str, Mapping[str, int]] | None = None
    #: Tables of reservations that do not agree with their tables: their rows, and the values there.
    reservations: Mapping[str, tuple[int, int]] | None = None


def read_facts(config: Config, engines: Engines, catalog: Catalog) -> ClusterFacts:
    """Read everything. What cannot be read is a fact too: nothing is raised for a server that does not answer."""
    from shardpool.jobs.digest import differing_references, differing_reservations

    found = _read_catalog(catalog)
    if found.topology is not None:
        engines.set_shards(found.topology.shard_map.shards)
    names = {*config.shards, *(found.topology.shard_map.shards if found.topology else ())}
    servers, unreachable = ask_shards(engines, names, lambda _, cursor: _read_server(cursor))
    drift, fault = _read_drift(catalog, engines, found, unreachable)
    # What has not the same columns cannot be compared.
    comparable = found.topology if drift is not None and not drift else None
    references = _differing(config, engines, comparable, differing_references)
    reservations = _differing(config, engines, comparable, differing_reservations)
    return ClusterFacts(config, servers, unreachable, found, drift, fault, references, reservations)


def _read_server(cursor: Any) -> ServerFacts:
    asked = time.time()
    cursor.execute(_SERVER)
    row, version, number, encoding, time_zone, prepared, wal_level, system, clock = cursor.fetchone()
    answered = time.time()
    cursor.execute(_PREPARED)
    return ServerFacts(
        version=version.split()[0],
        version_number=number,
        encoding=encoding,
        collation=_collation(row),
        time_zone=time_zone,
        max_prepared_transactions=prepared,
        wal_level=wal_level,
        identity=ShardIdentity(system, row["datname"]),
        skew=clock - (asked + answered) / 2,
        precision=(answered - asked) / 2,
        prepared=cursor.fetchall(),
    )


def _collation(row: Mapping[str, Any]) -> str:
    """All that decides how a database sorts and classifies text, as one comparable text."""
    provider = _PROVIDERS.get(row.get("datlocprovider", "c"), "unknown")
    return ", ".join([provider, *(f"{word} {row[name]}" for name, word in _COLLATION.items() if row.get(name))])


def _read_catalog(catalog: Catalog) -> CatalogFacts:
    try:
        topology, fault = catalog.load(), ""
    except TopologyError as error:
        topology, fault = None, describe(error).message
    if topology is None:
        return CatalogFacts(fault=fault)
    values = {"keyspace": catalog.keyspace}
    with catalog.begin() as connection:
        time_zone, ddl, moves, leftovers, builds = (
            list(connection.execute(text(query), values).scalars())
            for query in (_TIME_ZONE, _RUNNING_DDL, _RUNNING_MOVES, _LEFTOVERS, _UNIQUE_BUILDS)
        )
    return CatalogFacts(topology, fault, time_zone[0], catalog.identities(), ddl, moves, leftovers, builds)


def _differing(
    config: Config,
    engines: Engines,
    topology: Topology | None,
    read: Callable[[Engines, Topology, str | None], Mapping[str, T]],
) -> Mapping[str, T] | None:
    """Return what *read* finds different, also at one moment of all shards: it may be written just now."""
    from shardpool.router import Router

    if topology is None:
        return None
    try:
        if not read(engines, topology, None):
            return {}
        with Router(config, listen=False) as router, router.snapshot() as snapshot:
            return read(engines, topology, snapshot.export())
    except ExecutionError:
        return None


def _read_drift(
    catalog: Catalog, engines: Engines, found: CatalogFacts, unreachable: Mapping[str, str]
) -> tuple[Sequence[Drift] | None, str]:
    """Compare the shards' tables; not while a shard is away, as there would be nothing to compare."""
    from shardpool.ddl import find_drift

    if found.topology is None or unreachable:
        return None, "not looked at: " + ("a shard does not answer" if unreachable else "there is no shard map")
    try:
        return find_drift(catalog, engines, found.topology), ""
    except (TopologyError, ExecutionError) as error:
        return None, describe(error).message
