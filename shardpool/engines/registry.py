"""The registry: one engine per shard, opened at first use, and the thread that keeps their pools tidy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg2
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry

from shardpool.config import Config, Endpoint
from shardpool.engines.pool import PoolStats, ShardPool, clean
from shardpool.engines.right_of_way import RightOfWay
from shardpool.errors import NoSuchShard
from shardpool.topology.shard_map import Shard

SWEEP_INTERVAL = 1.0


class Engines:
    """The engines of all shards. Thread-safe. Shards are told by `set_shards` whenever the shard map changes."""

    def __init__(
        self,
        config: Config,
        on_engine: Callable[[Engine], object] | None = None,
    ) -> None:
        self._config = config
        self._on_engine = on_engine
        self._endpoints: dict[str, Endpoint] = dict(config.shards)
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()
        self.right_of_way = RightOfWay(config.pool.max_size)
        self._closing = threading.Event()
        self._sweeper: threading.Thread | None = None

    def set_shards(self, shards: Mapping[str, Shard]) -> None:
        """Learn the shards of the catalog. URLs of the configuration win over stored ones: they may have passwords."""
        known = {name: self._config.shards.get(name) or Endpoint(shard.url) for name, shard in shards.items()}
        with self._lock:
            self._endpoints = {**self._config.shards, **known}
            gone = [self._engines.pop(name) for name in list(self._engines) if name not in self._endpoints]
        for engine in gone:
            _pool(engine).shut()

    @contextmanager
    def apart(self, shard: str, endpoint: Endpoint) -> Iterator[Engines]:
        """Engines of a database that is not yet a shard, with the same settings and source of passwords.

        A password of *endpoint* itself goes before that source. They are closed when the block ends.
        """
        password = None if endpoint.password is not None else self._config.password
        engines = Engines(replace(self._config, shards={shard: endpoint}, password=password))
        try:
            yield engines
        finally:
            engines.close()

    def engine(self, shard: str) -> Engine:
        """Return the engine of a shard. Raise `NoSuchShard`. Nothing is connected yet."""
        engine = self._engines.get(shard)
        if engine is not None:
            return engine
        with self._lock:
            if shard not in self._endpoints:
                raise NoSuchShard(f"no shard {shard!r} (known: {', '.join(sorted(self._endpoints))})")
            if shard not in self._engines:
                self._engines[shard] = self._create_engine(shard, self._endpoints[shard])
                self._start_sweeper()
            return self._engines[shard]

    def pool(self, shard: str) -> ShardPool:
        return _pool(self._engines.get(shard) or self.engine(shard))

    @contextmanager
    def borrow(self, shard: str) -> Iterator[Any]:
        """Borrow a clean psycopg2 connection (autocommit off). It is rolled back and reset at the end, or discarded."""
        pool = self.pool(shard)
        entry = pool.lease()
        connection: Any = entry.dbapi_connection
        try:
            connection.autocommit = False
            yield connection
        finally:
            self.give_back_clean(shard, entry)

    def give_back_clean(self, shard: str, entry: ConnectionPoolEntry) -> None:
        """Return a leased entry whose session may have been changed: reset it, or close it if that fails."""
        pool = self.pool(shard)
        try:
            clean(entry)
        except psycopg2.Error:
            pool.discard(entry)
        else:
            pool.give_back(entry)

    def stats(self) -> dict[str, PoolStats]:
        """Return shard name -> counters, for the shards that were used."""
        return {name: _pool(engine).stats() for name, engine in sorted(self._engines.items())}

    def close(self) -> None:
        """Close all pools and end the housekeeping thread. Idempotent."""
        self._closing.set()
        for engine in list(self._engines.values()):
            _pool(engine).shut()
        if self._sweeper is not None:
            self._sweeper.join(timeout=30)
            self._sweeper = None

    def _create_engine(self, shard: str, endpoint: Endpoint) -> Engine:
        engine = create_engine(
            endpoint.full_url(),
            poolclass=ShardPool,
            shard=shard,
            limits=self._config.pool,
            pool_reset_on_return=None,
            hide_parameters=True,
            connect_args=connect_arguments(self._config, endpoint),
        )
        password = self._config.password
        if password is not None:

            @event.listens_for(engine, "do_connect")
            def _add_password(dialect: object, record: object, args: object, parameters: dict[str, Any]) -> None:
                parameters["password"] = password(shard)

        if self._on_engine is not None:
            self._on_engine(engine)
        return engine

    def _start_sweeper(self) -> None:
        if self._sweeper is None and not self._closing.is_set():
            self._sweeper = threading.Thread(target=self._sweep, name="shardpool-sweeper", daemon=True)
            self._sweeper.start()

    def _sweep(self) -> None:
        while not self._closing.wait(SWEEP_INTERVAL):
            for engine in list(self._engines.values()):
                _pool(engine).sweep()


def connect_arguments(config: Config, endpoint: Endpoint) -> dict[str, Any]:
    """Return libpq's parameters: those of the link, and for the start-up packet settings that must agree on all shards.

    What depends on a session's settings (dates as text, time zones, types' names) is thus the same on every shard, and
    `DISCARD ALL` comes back to it. The default search path has the keyspace's shared schema, never a partition.
    """
    settings = {
        "search_path": f'"{config.keyspace}",public',
        "TimeZone": config.timezone,
        "DateStyle": "ISO,MDY",
        "IntervalStyle": "postgres",
        "extra_float_digits": "1",
        "bytea_output": "hex",
        "array_nulls": "on",
        "quote_all_identifiers": "off",
        # As the planner reads statements.
        "standard_conforming_strings": "on",
        "transform_null_equals": "off",
        "default_transaction_isolation": "read committed",
        "statement_timeout": str(int(config.pool.statement_timeout * 1000)),
    }
    return {
        "application_name": f"shardpool {config.keyspace}",
        **endpoint.link(config.pool.connect_timeout),
        "options": " ".join(f"-c {name}={_escape_option(value)}" for name, value in settings.items()),
    }


def _escape_option(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _pool(engine: Engine) -> ShardPool:
    pool = engine.pool
    assert isinstance(pool, ShardPool)
    return pool
