"""The router: the facade over topology, planner, engines and executor.

A query reads parse -> analyse -> bind -> run -> merge: `planner.statement`, `planner.ladder`, `executor.queries`,
`executor.merge`. A statement for one key takes the short way through `executor.statements`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import Result
from sqlalchemy.orm import Session
from sqlalchemy.sql import Executable
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_random

from shardpool import provision
from shardpool.bulk import LoadResult, copy_into, resolve_loads
from shardpool.caretakers import CaretakerThread
from shardpool.catalog import Catalog, Listener
from shardpool.config import Config, PasswordSource, catalog_password, read_config
from shardpool.ddl import SchemaManager, StatementReport, created_tables, parse_script
from shardpool.ddl.refusals import refuse
from shardpool.engines import Engines, PoolStats
from shardpool.errors import SchemaBusy, StalePlacement, UnknownTable
from shardpool.executor.at_once import Hands
from shardpool.executor.background import Resolver
from shardpool.executor.cache import PlanCache
from shardpool.executor.constructs import Constructs
from shardpool.executor.current import CurrentTopology, OutdatedPlan
from shardpool.executor.deadlocks import Deadlocks
from shardpool.executor.explain import Explanation, WriteExplanation
from shardpool.executor.ids import IDS, ById, GivesIds, IdClock
from shardpool.executor.merge import Merger
from shardpool.executor.parameters import with_parameters
from shardpool.executor.partition import OPTION, PartitionContext, watch
from shardpool.executor.queries import Queries
from shardpool.executor.results import RoutedResult, StreamedResult
from shardpool.executor.sessions import Schema, routed_engine
from shardpool.executor.sizes import TableSizes
from shardpool.executor.statements import MAX_RETRIES, Statements
from shardpool.executor.trace import Trace
from shardpool.executor.transaction import Surroundings
from shardpool.executor.transaction_queries import IN_TRANSACTION
from shardpool.executor.transactional import Transactional
from shardpool.executor.writes import Writes
from shardpool.planner.keyed import compile_for_key, types_of_key
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.refusals import refuse as refuse_statement
from shardpool.planner.writes import Apart, CompiledWrite, Steps, chosen, compile_statement
from shardpool.topology.key import KeyValue
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Partition, Placement, Shard, ShardMap, Topology
from shardpool.topology.tables import TableKind
from shardpool.two_phase import Coordinator

Parameters = Mapping[str, Any]
_NO_PARAMETERS: Parameters = {}

#: How long a load of a reference table waits for a schema change or a new shard, and that of a file for moves that go
#: on and on, in seconds.
LOCK_WAIT, MOVES_WAIT = 30.0, 60.0
#: Threads for scatters; tasks beyond this queue.
SCATTER_THREADS = 32


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


class Router(Transactional):
    """Routes statements to the partitions of one keyspace. Thread-safe; use as a context manager, or `close` it.

    *password* is called with a shard's name for each new connection, if given, and with "catalog" for a catalog that is
    in no shard's database. With *listen*, threads of the router hear of changes at once, and settle moves whose
    processes have died. Raises `CatalogMissing` for a catalog that was not initialised and `CatalogUnavailable` if it
    does not answer now; later the router goes on without it.
    """

    def __init__(self, config: Config, *, password: PasswordSource | None = None, listen: bool = True) -> None:
        if password is not None:
            config = replace(config, password=password)
        self.config = config
        self.catalog = Catalog(config.catalog, config.keyspace, config.pool.connect_timeout, catalog_password(config))
        self.engines = Engines(config, on_engine=watch)
        self._keyed = PlanCache(compile_for_key)
        self._queries = PlanCache(compile_statement, lambda it: not isinstance(it, CompiledQuery) or it.by_one_key)
        try:
            self._current = CurrentTopology(self.catalog, self.engines, self._forget_plans)
        except BaseException:
            self.catalog.close()
            raise
        self._threads = ThreadPoolExecutor(SCATTER_THREADS, thread_name_prefix="shardpool-scatter")
        self._statements = Statements(self.engines, self._current)
        merger = Merger(self.engines, self._threads, config.query.max_gather_bytes, config.query.merge_node)
        self._sizes = TableSizes(self.engines, self._current, self._threads)
        self._answers = Queries(self.engines, self._current, self._statements, merger, self._sizes)
        self._ids = GivesIds(IdClock(self.catalog), self._current)
        self._constructs = Constructs(self._ids)
        coordinator = Coordinator(self.engines, config.keyspace, self._threads)
        self._around = Surroundings(
            self.engines,
            self._current,
            self._keyed,
            self._queries,
            self._constructs,
            self._threads,
            coordinator,
            Deadlocks(self.engines),
            Hands(SCATTER_THREADS),
            config.query.max_gather_bytes,
        )
        self._engine = routed_engine(
            lambda isolation, read_only: self.transaction(isolation=isolation, read_only=read_only),
            Schema(lambda: self._current.value.tables, self.create_schema),
            self._ids,
        )
        self._by_id = ById(self._current, self._statements, self.transaction)
        self._writes = Writes(self._current, self._statements, self.transaction)
        self._resolver = Resolver(self.engines, self._current, coordinator, self._resolve_loads)
        self._borrowed: dict[int, tuple[str, Any]] = {}
        self._listener = Listener(self.catalog, self._current.refresh_quietly) if listen else None
        self._caretaker = CaretakerThread(self) if listen else None
        if self._listener is not None:
            self._listener.start()
            self._resolver.start()
        if self._caretaker is not None:
            self._caretaker.start()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Open the cluster of a ``cluster.toml``. Raise `ConfigError`, and as the constructor does."""
        return cls(read_config(path), **options)

    @staticmethod
    def initialise(config: Config, password: PasswordSource | None = None) -> None:
        """Create the catalog, the keyspace and its schemas on all shards. Idempotent."""
        provision.initialise(config if password is None else replace(config, password=password))

    # -- topology ---------------------------------------------------------------------------------------------------

    @property
    def topology(self) -> Topology:
        """The topology that calls work with now."""
        return self._current.value

    @property
    def shard_map(self) -> ShardMap:
        """The shard map that calls work with now: `.epoch`, `.partitions`, `.owner(partition)`."""
        return self._current.value.shard_map

    def partition_of(self, key: KeyValue, table: str | None = None) -> Partition:
        """Return the partition of *key*; of *table*'s key if given, else by the key's own type."""
        return self._place(key, table)[1].partition

    def shard_of(self, key: KeyValue, table: str | None = None) -> Shard:
        """Return the shard that holds the partition of *key*."""
        return self.shard_map.owner(self.partition_of(key, table))

    def shard(self, name: str) -> ShardHandle:
        """Return a shard with its engine. Raise `NoSuchShard`."""
        engine = self.engines.engine(name)
        return ShardHandle(self.shard_map.shards[name], engine)

    def refresh(self) -> None:
        """Read the catalog now. Raise `CatalogUnavailable`, or `InvalidShardMap` and keep the last good map."""
        self._current.refresh()

    def _forget_plans(self) -> None:
        self._keyed.clear()
        self._queries.clear()

    def _place(self, key: KeyValue, table: str | None) -> tuple[Topology, Placement]:
        topology = self._current.value
        types = types_of_key(key, topology) if table is None else topology.tables[table].key_types
        return topology, topology.place(key, types)

    # -- one partition ----------------------------------------------------------------------------------------------

    @with_parameters
    def execute(self, key: KeyValue, sql: str | Executable, params: Parameters | None = None) -> Result[Any]:
        """Run one statement on the partition of *key*, as a transaction of its own, in one round trip.

        *sql* is text with ``:name`` parameters or a SQLAlchemy construct. Raises `KeyTypeMismatch`, `UnknownTable`,
        `CrossShardTransaction` for a row of another partition, `UnsupportedStatement`, `WrongParameters`;
        `sqlalchemy.exc` errors of the statement itself; `ShardUnavailable`, `OutcomeUnknown` for a broken connection.
        """
        if not isinstance(sql, str):
            return self._constructs.execute(
                sql, params, lambda text, values: self._on_partition(key, text, values, True)
            )
        return self._on_partition(key, sql, params or _NO_PARAMETERS, False)

    def _on_partition(self, key: KeyValue, sql: str, params: Parameters, pyformat: bool) -> RoutedResult:
        """As `execute`, for a text; *pyformat*: as SQLAlchemy writes it."""
        keyed, queries = self._keyed, self._queries
        while True:
            topology = self._current.value
            compiled, values = keyed.find(sql, params, topology, pyformat)
            try:
                if not compiled.reserved:
                    return self._statements.on_partition(key, compiled, values, topology)
                whole, values = queries.find(sql, params, topology, pyformat)
                assert not isinstance(whole, CompiledQuery)
                return self._writes.on_partition(topology.place(key, compiled.key_types), whole, values, topology)
            except OutdatedPlan:
                continue

    def next_id(self, key: KeyValue, table: str | None = None) -> int:
        """Return a 63-bit id for a new row of *key*: unique in the keyspace, later ones greater (between routers to
        about a second), and `execute_by_id` finds the row by it. Raise `KeyTypeMismatch`, `CatalogUnavailable`.

        For a row whose id is its own key give any key: such a row is found by `execute`, and not by `execute_by_id`."""
        return self._ids.next_id(key, table)

    @with_parameters
    def execute_by_id(self, identity: int, sql: str, params: Parameters | None = None) -> Result[Any]:
        """Run one statement as `execute` does, on the partition that an id of `next_id` carries. It must name its row,
        by ``id = :id`` or so: where partitions are smaller than what an id tells, it runs on several.

        Raise `ValueError` for an id that `next_id` cannot have given, like those of an imported sequence."""
        while True:
            topology = self._current.value
            compiled = self._keyed.text(sql, topology)
            if compiled.reserved:
                raise refuse_statement("SP139", "a row that an id finds: name its key, by execute() or query()")
            try:
                return self._by_id.execute(identity, compiled, params or _NO_PARAMETERS, topology)
            except OutdatedPlan:
                continue

    def find_key(self, table: str, **unique: Any) -> KeyValue:
        """Return the partition key of the row of *table* that has a value in a column which is unique over all
        partitions, ``find_key("customers", email="x")``; None if there is none. One round trip, to one partition.

        Raise `UnknownTable`, `ValueError` for a column that was not declared as unique, and as `query`.
        """
        topology = self._current.value
        if table not in topology.tables:
            raise UnknownTable(table, topology.keyspace, list(topology.tables))
        declared = topology.tables[table].unique_columns
        if len(unique) != 1 or not unique.keys() <= declared.keys():
            known = ", ".join(declared) or "it has none"
            raise ValueError(f"got {', '.join(unique) or 'nothing'}, expected a unique column of {table!r} ({known})")
        ((column, value),) = unique.items()
        key = topology.tables[table].key
        words = f"SELECT {', '.join(map(quote, key))} FROM {quote(declared[column])} WHERE {quote(column)} = :value"
        row = self.query(words, {"value": value}).first()
        return None if row is None else row[0] if len(key) == 1 else tuple(row)

    @contextmanager
    def connect(self, key: KeyValue, table: str | None = None) -> Iterator[Connection]:
        """Give a SQLAlchemy Connection on the partition of *key*, with transactions as usual.

        Raises `StalePlacement` (retryable) from a statement if the partition moves meanwhile.
        """
        topology, placement = self._place(key, table)
        context = PartitionContext(topology, placement, self._current.moved)
        options = {OPTION: context, IDS: self._ids}
        with self.engines.engine(placement.shard).connect().execution_options(**options) as connection:
            yield connection

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's Engine over all shards, that of `session`: ``sessionmaker(router.engine)``, ``scoped_session``,
        ``router.engine.begin()``. Its connections are transactions over shards, from the pools of these. Schema
        changes, as of ``MetaData.create_all(router.engine)``, are done as by `create_schema`, before the next statement
        that is none, or by the commit; how new tables are sharded is told by the configuration."""
        return self._engine

    @contextmanager
    def session(self, key: KeyValue = None, table: str | None = None, **options: Any) -> Iterator[Session]:
        """Give an ORM Session over all shards, whose commit is that of a `transaction`; or, with *key*, one on its
        partition. *options* go to `sqlalchemy.orm.Session`.

        Over all shards its statements are answered as by `Transaction.query`, and raise as that does. Isolation levels
        are chosen as in SQLAlchemy: ``session.connection(execution_options={"isolation_level": "REPEATABLE READ"})``,
        or ``"postgresql_readonly": True``. `engine` makes others.
        """
        if key is None:
            with Session(bind=self._engine, **options) as session:
                yield session
            return
        with self.connect(key, table) as connection, Session(bind=connection, **options) as session:
            yield session

    def getconn(self, key: KeyValue, table: str | None = None) -> Any:
        """Borrow a psycopg2 connection on the partition of *key*, as from `psycopg2.pool`; `putconn` gives it back.

        What it writes is not checked for its partition key.
        """
        topology, placement = self._place(key, table)
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

    @with_parameters
    def query(self, sql: str | Executable, params: Parameters | None = None) -> Result[Any]:
        """Answer a SELECT over all shards as one PostgreSQL holding all rows would; or write on all that it concerns,
        as a transaction of its own.

        Raises `InvalidSQL`, `WrongParameters`, `UnknownTable`, `UnsupportedStatement` (with a code), `GatherTooLarge`;
        `ScatterFailed` if a shard fails, after the other shards were cancelled; `sqlalchemy.exc` errors of the
        statement itself. A write of several shards also raises as the end of a `transaction` does.
        """
        if not isinstance(sql, str):
            return self._constructs.execute(sql, params, lambda text, values: self._answer(text, values, True))
        return self._answer(sql, params or _NO_PARAMETERS, False)

    def _answer(self, sql: str, params: Parameters, pyformat: bool) -> RoutedResult:
        """As `query`, for a text; *pyformat*: as SQLAlchemy writes it."""
        while True:
            topology = self._current.value
            compiled, values = self._queries.find(sql, params, topology, pyformat)
            if isinstance(compiled, CompiledQuery):
                if compiled.locks is not None and compiled.locks_partitions(values, topology):
                    return self._writes.lock(lambda its: self._queries.find(sql, params, its, pyformat))
                return self._answers.answer(compiled, values)
            try:
                return self._writes.answer(compiled, values, topology)
            except OutdatedPlan:
                continue

    @with_parameters
    def stream(self, sql: str, params: Parameters | None = None) -> StreamedResult:
        """Answer a SELECT as `query` does, with rows as they come: memory is bounded whatever the size of the result.

        The result holds connections, and keeps partitions where they are, until its last row or `close`; it is a
        context manager. Raises what `query` raises, also while rows are read. What must be sorted or grouped over all
        partitions is so on the merge node first, up to ``max_gather_bytes``.
        """
        return self._answers.stream(self._select(sql), params or _NO_PARAMETERS)

    def explain(
        self, sql: str, params: Parameters | None = None, *, analyze: bool = False
    ) -> Explanation | WriteExplanation:
        """Return the plan of a statement: `str()` is readable, `to_json()` is for programs.

        With *analyze* it is run, and rows, bytes and milliseconds of its steps are told; a write is refused then.
        """
        topology, given = self._current.value, params or _NO_PARAMETERS
        if not analyze:
            found = self._queries.text(sql, topology)
            if not isinstance(found, CompiledQuery):
                return self._explained_write(sql, found, given, topology)
        compiled = self._select(sql)
        if not analyze:
            return Explanation(sql, compiled.bind(given, topology, self._sizes.statistics(given), locking=True))
        trace = Trace()
        started = time.perf_counter()
        trace.rows = len(self._answers.answer(compiled, given, trace).rows)
        trace.milliseconds = (time.perf_counter() - started) * 1000
        assert trace.plan is not None
        return Explanation(sql, trace.plan, trace)

    def _explained_write(
        self, sql: str, compiled: CompiledWrite, params: Parameters, topology: Topology
    ) -> WriteExplanation:
        steps, reason = chosen(compiled, params, topology)
        if isinstance(steps, Apart):
            return replace(self._explained_write(sql, steps.inner, params, topology), reason=reason)
        if isinstance(steps, Steps):
            return WriteExplanation(sql, steps.steps)
        # As in a transaction: temporary tables would keep it from being prepared.
        plan = steps.source.bind(params, topology, failed={"stages": IN_TRANSACTION})
        return WriteExplanation(sql, (), Explanation(sql, plan), reason)

    def _select(self, sql: str) -> CompiledQuery:
        compiled = self._queries.text(sql, self._current.value)
        if not isinstance(compiled, CompiledQuery):
            raise refuse_statement("SP137")
        return compiled

    # -- bulk and schema --------------------------------------------------------------------------------------------

    def create_schema(self, ddl: str, tables: Mapping[str, TableKind] | None = None) -> list[StatementReport]:
        """Apply DDL to every partition (sharded tables) or every shard (reference tables, types, functions).

        *tables* says for each new table `Sharded(key)` or `Reference()`; tables of the configuration need no mention.
        Idempotent. Raises `SchemaError` with a code for what sharding would break.
        """
        created = created_tables(parse_script(ddl, self.config.keyspace))
        configured = {name: kind for name, kind in self.config.tables.items() if name in created}
        report = SchemaManager(self.catalog, self.engines).create_schema(ddl, {**configured, **(tables or {})})
        self.refresh()
        return report

    def copy_into(self, table: str, source: Any, **options: Any) -> LoadResult:
        """Load a CSV or COPY file, or an iterable of rows, into the partitions by key, all or nothing.

        See `shardpool.bulk.copy_into` for the options. Raises `BadRow` with source, line and reason; if a partition
        moves meanwhile, the load of a file is begun again, and that of rows raises `StalePlacement`.
        """
        self._resolve_loads()
        found = self._current.value.tables.get(table)
        if found is not None and not found.sharded:
            return self._load_reference(table, source, options)
        again = isinstance(source, str | Path) and Path(source).is_file()
        loading = Retrying(
            retry=retry_if_exception_type(StalePlacement),
            # A small file is loaded between moves, sooner or later; a large one may take longer than the patience.
            stop=stop_after_delay(MOVES_WAIT) & stop_after_attempt(MAX_RETRIES) if again else stop_after_attempt(1),
            wait=wait_random(0.02, 0.2),
            after=lambda _: self.refresh(),
            reraise=True,
        )
        return loading(lambda: copy_into(self._current.value, self.engines, self.catalog, table, source, **options))

    def _resolve_loads(self) -> None:
        resolve_loads(self.catalog, self.engines, list(self.shard_map.shards))

    def _load_reference(self, table: str, source: Any, options: Mapping[str, Any]) -> LoadResult:
        """Load all shards' copies while no shard can be added, and no table changed."""
        busy = refuse("SP260", keyspace=self.config.keyspace)
        waiting = Retrying(
            retry=retry_if_exception_type(SchemaBusy),
            stop=stop_after_delay(LOCK_WAIT),
            wait=wait_random(0.02, 0.2),
            reraise=True,
        )
        with ExitStack() as stack:
            waiting(lambda: stack.enter_context(self.catalog.lock("topology", lambda: busy)))
            self.refresh()
            return copy_into(self._current.value, self.engines, self.catalog, table, source, **options)

    # -- end --------------------------------------------------------------------------------------------------------

    def stats(self) -> RouterStats:
        """Return counters of the pools (size, in use, waiting, opened, closed, per shard) and of the plan cache."""
        caches: tuple[PlanCache[Any], ...] = (self._keyed, self._queries)
        return RouterStats(
            pools=self.engines.stats(),
            epoch=self.shard_map.epoch,
            cached_statements=sum(len(cache) for cache in caches),
            cache_hits=sum(cache.hits for cache in caches),
            cache_misses=sum(cache.misses for cache in caches),
        )

    def close(self) -> None:
        """Close all connections and threads. Connections in use are closed as they come back. Idempotent."""
        if self._caretaker is not None:
            self._caretaker.close()
        if self._listener is not None:
            self._listener.close()
        self._resolver.close()
        self._around.deadlocks.close()
        self._around.hands.close()
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
