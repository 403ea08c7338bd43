"""The router: the facade over topology, planner, engines and executor.

A query reads parse -> compile -> bind -> run. Topology is one immutable value that is replaced as a whole when the
catalog's epoch rises; every call takes it once and works with that.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psycopg2
from sqlalchemy import Connection, Engine
from sqlalchemy.engine import CursorResult, Result
from sqlalchemy.orm import Session
from sqlalchemy.sql import Executable

from shardpool import provision
from shardpool.bulk import LoadResult, copy_into
from shardpool.catalog import Catalog, Listener
from shardpool.config import Config, read_config
from shardpool.ddl import SchemaManager, StatementReport
from shardpool.engines import Engines, PoolStats
from shardpool.engines.registry import PasswordSource
from shardpool.engines.translate import is_stale, translate
from shardpool.errors import CatalogUnavailable, InvalidShardMap
from shardpool.executor.constructs import construct_engine
from shardpool.executor.explain import Explanation
from shardpool.executor.merge import Merger
from shardpool.executor.partition import OPTION, PartitionContext, watch
from shardpool.executor.results import RoutedResult
from shardpool.planner.keyed import KeyedStatement, compile_keyed, types_of_key
from shardpool.planner.ladder import CompiledQuery, compile_query
from shardpool.planner.plan import GatherPlan, Plan, PushdownPlan, ReferencePlan, SinglePlan
from shardpool.planner.statement import Statement, from_pyformat, from_text
from shardpool.topology.key import KeyValue
from shardpool.topology.shard_map import Partition, Placement, Shard, ShardMap, Topology
from shardpool.topology.tables import TableKind

log = logging.getLogger(__name__)

Parameters = Mapping[str, Any]
_NO_PARAMETERS: Parameters = {}

#: Threads for scatters; tasks beyond this queue.
SCATTER_THREADS = 32
#: Statements whose analysis is remembered.
CACHED_STATEMENTS = 2000
#: How long a statement waits for a partition that is between two shards, in seconds.
CUTOVER_WAIT = 10.0
CUTOVER_POLL = 0.02
#: How often a statement follows a partition that moves again and again.
MAX_RETRIES = 20


@dataclass(frozen=True)
class ShardHandle:
    """A shard and its engine, for work that is not routed: `router.shard("s1").engine`."""

    shard: Shard
    engine: Engine

    @property
    def name(self) -> str:
        return self.shard.name


@dataclass(frozen=True)
class RouterStats:
    """Counters: per shard its pool's; for the router the statements in its plan cache, its hits and misses."""

    pools: Mapping[str, PoolStats]
    epoch: int
    cached_statements: int
    cache_hits: int
    cache_misses: int


class Router:
    """Routes statements to the partitions of one keyspace. Thread-safe; use as a context manager, or `close` it.

    *password* is called with a shard's name for each new connection, if given. Raises `CatalogMissing` for a catalog
    that was not initialised and `CatalogUnavailable` if it does not answer now; later the router goes on without it.
    """

    def __init__(self, config: Config, *, password: PasswordSource | None = None, listen: bool = True) -> None:
        self.config = config
        self.catalog = Catalog(config.catalog, config.keyspace, config.pool.connect_timeout)
        try:
            self._topology = self.catalog.load()
        except BaseException:
            self.catalog.close()
            raise
        self.engines = Engines(config, password, on_engine=watch)
        self.engines.set_shards(self._topology.shard_map.shards)
        self._refreshing = threading.Lock()
        self._threads = ThreadPoolExecutor(SCATTER_THREADS, thread_name_prefix="shardpool-scatter")
        self._merger = Merger(self.engines, self._threads, config.query.max_gather_bytes, config.query.merge_node)
        self._keyed: dict[str, KeyedStatement] = {}
        self._queries: dict[tuple[str, bool], CompiledQuery] = {}
        self._hits = self._misses = 0
        self._query_constructs = construct_engine(self._run_query)
        self._keyed_constructs = construct_engine(self._run_keyed)
        self._borrowed: dict[int, tuple[str, Any]] = {}
        self._listener = Listener(self.catalog, self._refresh_quietly) if listen else None
        if self._listener is not None:
            self._listener.start()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Open the cluster of a ``cluster.toml``. Raise `ConfigError`, and as the constructor does."""
        return cls(read_config(path), **options)

    @staticmethod
    def initialise(config: Config, password: PasswordSource | None = None) -> None:
        """Create the catalog, the keyspace and its schemas on all shards. Idempotent."""
        provision.initialise(config, password)

    # -- topology ---------------------------------------------------------------------------------------------------

    @property
    def topology(self) -> Topology:
        """The topology that calls work with now."""
        return self._topology

    @property
    def shard_map(self) -> ShardMap:
        return self._topology.shard_map

    def partition_of(self, key: KeyValue, table: str | None = None) -> Partition:
        """Return the partition of *key*; of *table*'s key if given, else by the key's own type."""
        topology = self._topology
        types = topology.tables[table].key_types if table is not None else types_of_key(key, topology)
        return topology.place(key, types).partition

    def shard_of(self, key: KeyValue, table: str | None = None) -> Shard:
        """Return the shard that holds the partition of *key*."""
        return self.shard_map.owner(self.partition_of(key, table))

    def shard(self, name: str) -> ShardHandle:
        """Return a shard with its engine. Raise `NoSuchShard`."""
        engine = self.engines.engine(name)
        return ShardHandle(self.shard_map.shards[name], engine)

    def refresh(self) -> None:
        """Read the catalog now. Raise `CatalogUnavailable`, or `InvalidShardMap` and keep the last good map."""
        with self._refreshing:
            self._replace(self.catalog.load())

    def _replace(self, topology: Topology) -> None:
        if topology.shard_map.epoch < self._topology.shard_map.epoch:
            raise InvalidShardMap(
                f"the catalog's epoch went back from {self._topology.shard_map.epoch} to {topology.shard_map.epoch}"
            )
        if topology.tables != self._topology.tables or topology.user_functions != self._topology.user_functions:
            self._keyed = {}
            self._queries = {}
        self.engines.set_shards(topology.shard_map.shards)
        self._topology = topology

    def _refresh_quietly(self) -> None:
        """On a notice: routing goes on with the last good map if the catalog cannot be read."""
        try:
            self.refresh()
        except (CatalogUnavailable, InvalidShardMap) as error:
            log.warning("the shard map was not refreshed: %s", error)

    def _moved(self, seen: Topology, placement: Placement) -> bool:
        """Whether a partition that its shard no longer knows did move: then its new place is known when this returns.

        False: it did not, and the user's own error stands.
        """
        deadline = time.monotonic() + CUTOVER_WAIT
        while True:
            try:
                if self._topology is seen:
                    self.refresh()
            except CatalogUnavailable:
                return False
            current = self._topology.shard_map.at(placement.partition.low)
            if (current.shard, current.epoch, current.partition) != (
                placement.shard,
                placement.epoch,
                placement.partition,
            ):
                return True
            if not current.moving or time.monotonic() > deadline:
                return False
            time.sleep(CUTOVER_POLL)
            seen = self._topology

    # -- one partition ----------------------------------------------------------------------------------------------

    def execute(self, key: KeyValue, sql: str | Executable, params: Parameters | None = None) -> Result[Any]:
        """Run one statement on the partition of *key*, as a transaction of its own, in one round trip.

        *sql* is text with ``:name`` parameters or a SQLAlchemy construct. Raises `KeyTypeMismatch`, `UnknownTable`,
        `CrossShardTransaction` for a row of another partition, `UnsupportedStatement`; `sqlalchemy.exc` errors of the
        statement itself; `ShardUnavailable` and `OutcomeUnknown` for a broken connection.
        """
        if not isinstance(sql, str):
            token = _construct_key.set(key)
            try:
                with self._keyed_constructs.connect() as connection:
                    return _fetched(connection.execute(sql, dict(params) if params else None))
            finally:
                _construct_key.reset(token)
        compiled = self._keyed.get(sql)
        if compiled is None:
            compiled = self._compile_keyed(sql, from_text(sql))
        return RoutedResult(*self._on_partition(key, compiled, params or _NO_PARAMETERS))

    def _compile_keyed(self, sql: str, statement: Statement) -> KeyedStatement:
        compiled = compile_keyed(statement, self._topology)
        if len(self._keyed) >= CACHED_STATEMENTS:
            self._keyed = {}
        self._keyed[sql] = compiled
        return compiled

    def _run_keyed(self, sql: str, params: Parameters) -> tuple[Any, list[Any], int]:
        compiled = self._keyed.get(sql)
        if compiled is None:
            compiled = self._compile_keyed(sql, from_pyformat(sql))
        return self._on_partition(_construct_key.get(), compiled, params)

    def _on_partition(self, key: KeyValue, compiled: KeyedStatement, params: Parameters) -> tuple[Any, list[Any], int]:
        for _ in range(MAX_RETRIES):
            topology = self._topology
            placement = topology.place(key, compiled.key_types or types_of_key(key, topology))
            partition = placement.partition
            if compiled.written:
                compiled.check_written(partition, params, topology)
            if compiled.template:
                sql = topology.qualifiers[partition.id].join(compiled.template)
            else:
                sql = topology.search_paths[partition.id] + compiled.words
            try:
                return self._on_shard(placement.shard, sql, params, compiled.writes)
            except psycopg2.Error as error:
                failed = error
            if not self._moved(topology, placement):
                break
        raise translate(failed, _OPEN, placement.shard, sql, compiled.writes) from failed

    def _on_shard(self, shard: str, sql: str, params: Parameters, writes: bool) -> tuple[Any, list[Any], int]:
        """Run one statement in autocommit mode. A stale placement comes out as the driver's error, the rest as ours."""
        pool = self.engines.pool(shard)
        entry = pool.lease()
        connection: Any = entry.dbapi_connection
        try:
            cursor = connection.cursor()
            cursor.execute(sql, params)
            description = cursor.description
            found = description, cursor.fetchall() if description else [], cursor.rowcount
        except psycopg2.Error as error:
            _give_back(pool, entry, connection)
            if is_stale(error):
                raise
            raise translate(error, connection, shard, sql, writes) from error
        except BaseException:
            pool.discard(entry)
            raise
        pool.give_back(entry)
        return found

    @contextmanager
    def connect(self, key: KeyValue, table: str | None = None) -> Iterator[Connection]:
        """Give a SQLAlchemy Connection on the partition of *key*, with transactions as usual.

        Raises `StalePlacement` (retryable) from a statement if the partition moves meanwhile.
        """
        topology = self._topology
        types = topology.tables[table].key_types if table is not None else types_of_key(key, topology)
        placement = topology.place(key, types)
        context = PartitionContext(topology, placement, self._moved)
        with self.engines.engine(placement.shard).connect().execution_options(**{OPTION: context}) as connection:
            yield connection

    @contextmanager
    def session(self, key: KeyValue, table: str | None = None, **options: Any) -> Iterator[Session]:
        """Give an ORM Session on the partition of *key*; *options* go to `sqlalchemy.orm.Session`."""
        with self.connect(key, table) as connection, Session(bind=connection, **options) as session:
            yield session

    def getconn(self, key: KeyValue, table: str | None = None) -> Any:
        """Borrow a psycopg2 connection on the partition of *key*, as from `psycopg2.pool`; `putconn` gives it back.

        What it writes is not checked for its partition key.
        """
        topology = self._topology
        types = topology.tables[table].key_types if table is not None else types_of_key(key, topology)
        placement = topology.place(key, types)
        pool = self.engines.pool(placement.shard)
        entry = pool.lease()
        connection: Any = entry.dbapi_connection
        try:
            with connection.cursor() as cursor:
                cursor.execute(topology.search_paths[placement.partition.id].replace("SET LOCAL", "SET", 1))
            connection.autocommit = False
        except BaseException:
            pool.discard(entry)
            raise
        self._borrowed[id(connection)] = (placement.shard, entry)
        return connection

    def putconn(self, conn: Any, close: bool = False) -> None:
        """Give back a connection of `getconn`: rolled back and reset, or closed if *close* is true."""
        shard, entry = self._borrowed.pop(id(conn))
        if close:
            self.engines.pool(shard).discard(entry)
        else:
            self.engines.give_back_clean(shard, entry)

    # -- all partitions ---------------------------------------------------------------------------------------------

    def query(self, sql: str | Executable, params: Parameters | None = None) -> Result[Any]:
        """Answer a SELECT over all shards as one PostgreSQL holding all rows would.

        Raises `InvalidSQL`, `UnknownTable`, `UnsupportedStatement` (with a code), `GatherTooLarge`; `ScatterFailed` if
        a shard fails, after the other shards were cancelled; `sqlalchemy.exc` errors of the statement itself.
        """
        if not isinstance(sql, str):
            with self._query_constructs.connect() as connection:
                return _fetched(connection.execute(sql, dict(params) if params else None))
        return self._answer(self._compile_query(sql, pyformat=False), params or _NO_PARAMETERS)

    def _run_query(self, sql: str, params: Parameters) -> tuple[Any, list[Any], int]:
        result = self._answer(self._compile_query(sql, pyformat=True), params)
        return result.description, result.rows, result.rowcount

    def _compile_query(self, sql: str, pyformat: bool) -> CompiledQuery:
        key = (sql, pyformat)
        compiled = self._queries.get(key)
        if compiled is not None:
            self._hits += 1
            return compiled
        self._misses += 1
        compiled = compile_query(from_pyformat(sql) if pyformat else from_text(sql), self._topology)
        if len(self._queries) >= CACHED_STATEMENTS:
            self._queries = {}
        self._queries[key] = compiled
        return compiled

    def _answer(self, compiled: CompiledQuery, params: Parameters) -> RoutedResult:
        for _ in range(MAX_RETRIES):
            topology = self._topology
            plan = compiled.bind(params, topology)
            try:
                return self._run(plan, params)
            except psycopg2.Error as error:
                failed = error
            if not self._anything_moved(topology, plan):
                break
        raise translate(failed, _OPEN, "", compiled.words, writes=False) from failed

    def _run(self, plan: Plan, params: Parameters) -> RoutedResult:
        match plan:
            case SinglePlan():
                return RoutedResult(*self._on_shard(plan.placement.shard, plan.sql, params, writes=False))
            case ReferencePlan():
                return RoutedResult(*self._on_shard(self._any_shard(), plan.sql, params, writes=False))
            case PushdownPlan():
                return self._merger.pushdown(plan, params)
            case GatherPlan():
                return self._merger.gather(plan, params)

    def _any_shard(self) -> str:
        """The shard for statements that any can answer: the one with the fewest connections in use."""
        stats = self.engines.stats()
        return min(self.shard_map.by_shard(), key=lambda name: stats[name].in_use if name in stats else 0)

    def _anything_moved(self, seen: Topology, plan: Plan) -> bool:
        match plan:
            case SinglePlan():
                placements = [plan.placement]
            case ReferencePlan():
                placements = []
            case PushdownPlan():
                placements = [seen.shard_map.placement(p) for ps in plan.by_shard.values() for p in ps]
            case GatherPlan():
                found = {p for relation in plan.relations for ps in relation.by_shard.values() for p in ps}
                placements = [seen.shard_map.placement(p) for p in found]
        moving = [placement for placement in placements if self._may_have_moved(seen, placement)]
        return any(self._moved(seen, placement) for placement in moving)

    def _may_have_moved(self, seen: Topology, placement: Placement) -> bool:
        if self._topology is seen:
            try:
                self.refresh()
            except CatalogUnavailable:
                return False
        current = self._topology.shard_map.at(placement.partition.low)
        return current != placement or current.moving

    def explain(self, sql: str, params: Parameters | None = None) -> Explanation:
        """Return the plan of a SELECT: `str()` is readable, `to_json()` is for programs."""
        compiled = self._compile_query(sql, pyformat=False)
        return Explanation(sql, compiled.bind(params or _NO_PARAMETERS, self._topology))

    # -- bulk and schema --------------------------------------------------------------------------------------------

    def create_schema(self, ddl: str, tables: Mapping[str, TableKind] | None = None) -> list[StatementReport]:
        """Apply DDL to every partition (sharded tables) or every shard (reference tables, types, functions).

        *tables* says for each new table `Sharded(key)` or `Reference()`; tables of the configuration need no mention.
        Idempotent. Raises `SchemaError` with a code for what sharding would break.
        """
        report = SchemaManager(self.catalog, self.engines).create_schema(ddl, {**self.config.tables, **(tables or {})})
        self.refresh()
        return report

    def copy_into(self, table: str, source: Any, **options: Any) -> LoadResult:
        """Load a CSV or COPY file, or an iterable of rows, into the partitions by key, all or nothing.

        See `shardpool.bulk.copy_into` for the options. Raises `BadRow` with source, line and reason.
        """
        return copy_into(self._topology, self.engines, self.catalog, table, source, **options)

    # -- end --------------------------------------------------------------------------------------------------------

    def stats(self) -> RouterStats:
        """Return counters of the pools (size, in use, waiting, opened, closed, per shard) and of the plan cache."""
        cached = len(self._queries) + len(self._keyed)
        return RouterStats(self.engines.stats(), self.shard_map.epoch, cached, self._hits, self._misses)

    def close(self) -> None:
        """Close all connections and threads. Connections in use are closed as they come back. Idempotent."""
        if self._listener is not None:
            self._listener.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self.engines.close()
        self.catalog.close()

    closeall = close

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


#: The key of the construct that this thread (or task) executes.
_construct_key: ContextVar[KeyValue] = ContextVar("shardpool construct key")


def _fetched(result: CursorResult[Any]) -> Result[Any]:
    """Return a result that outlives its connection."""
    return result.freeze()() if result.returns_rows else result


class _Open:
    """Stands for a connection that is known to be open."""

    closed = 0


_OPEN = _Open()


def _give_back(pool: Any, entry: Any, connection: Any) -> None:
    if connection.closed:
        pool.discard(entry)
    else:
        pool.give_back(entry)
