"""A keyspace on databases of its own, and what the tests ask and do behind its back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from sqlalchemy import make_url, text

from shardpool.catalog import Catalog, ShardIdentity
from shardpool.config import Config, Endpoint, PoolConfig
from shardpool.ddl import SchemaManager
from shardpool.ddl.drift import Drift, find_drift
from shardpool.engines import Engines
from shardpool.topology.key import KeyType
from shardpool.topology.tables import Column, Reference, Sharded, Table

SHARDS = ("s0", "s1")
PARTITIONS = {"s0": ("shop_p0000", "shop_p0001"), "s1": ("shop_p0002", "shop_p0003")}

SHOP = """
create type mood as enum ('good', 'bad');
create table country (code text primary key, name text not null, since timestamptz default now());
create table shop.customers (
    customer_id bigint primary key,
    name text collate "C",
    mood mood default 'good',
    country text references country
);
create table orders (
    customer_id bigint not null references customers on delete cascade,
    id bigint,
    total numeric(10, 2) not null default 0 check (total >= 0),
    parent bigint,
    primary key (customer_id, id),
    constraint parent_fk foreign key (customer_id, parent) references shop.orders (customer_id, id)
        deferrable initially deferred
);
create function touch() returns trigger language plpgsql as 'begin new.total := round(new.total, 2); return new; end';
create index orders_by_total on shop.orders (total);
create index on orders (parent);
create trigger touch before insert on orders for each row execute function shop.touch();
alter table orders add column note text;
comment on column shop.orders.note is 'free text';
"""
TABLES = {"customers": Sharded("customer_id"), "orders": Sharded("customer_id"), "country": Reference()}

#: What the pure tests plan against.
EXISTING = {
    "customers": Table(
        "customers",
        (Column("customer_id", "bigint", True), Column("name", "text")),
        ("customer_id",),
        ("customer_id",),
        (KeyType.INTEGER,),
    ),
    "country": Table("country", (Column("code", "text", True),), ("code",)),
}


class Place:
    def __init__(self, server: str) -> None:
        self._server = server
        prefix = f"ddl_{uuid.uuid4().hex[:12]}"
        self.databases = {name: f"{prefix}_{name}" for name in (*SHARDS, "s2")}
        for database in self.databases.values():
            self._admin(f"CREATE DATABASE {database}")
        shards = {name: Endpoint(self.url(name)) for name in SHARDS}
        self.config = Config("test", "shop", 4, shards["s0"], shards, pool=PoolConfig(max_size=4))
        self.catalog = Catalog(shards["s0"], "shop")
        self.catalog.initialise(self.config, {name: self.identity(name) for name in SHARDS})
        spare = Config("test", "shop", 4, shards["s0"], {**shards, "s2": Endpoint(self.url("s2"))})
        self.engines = Engines(spare)
        self.manager = SchemaManager(self.catalog, self.engines, lock_timeout=0.2)

    def close(self) -> None:
        self.engines.close()
        self.catalog.close()
        for database in self.databases.values():
            self._admin(f"DROP DATABASE {database} WITH (FORCE)")

    def url(self, shard: str) -> str:
        return make_url(self._server).set(database=self.databases[shard]).render_as_string(hide_password=False)

    def _dsn(self, shard: str | None = None) -> dict[str, Any]:
        url = make_url(self._server)
        database = url.database if shard is None else self.databases[shard]
        return {"host": url.host, "port": url.port, "user": url.username, "password": url.password, "dbname": database}

    def _admin(self, statement: str) -> None:
        connection = psycopg2.connect(**self._dsn())
        connection.autocommit = True
        connection.cursor().execute(statement)
        connection.close()

    def identity(self, shard: str) -> ShardIdentity:
        ((system, database),) = self.sql(
            shard, "select system_identifier::text, current_database() from pg_control_system()"
        )
        return ShardIdentity(system, database)

    @contextmanager
    def connect(self, shard: str) -> Iterator[Any]:
        """A session that shardpool knows nothing of."""
        connection = psycopg2.connect(**self._dsn(shard))
        try:
            yield connection
        finally:
            connection.close()

    def sql(self, shard: str, statement: str) -> list[tuple[Any, ...]]:
        with self.connect(shard) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def log(self) -> list[tuple[str, str]]:
        """(statement, state) of the catalog's log."""
        with self.catalog.begin() as connection:
            rows = connection.execute(text("SELECT statement, state FROM shardpool_catalog.ddl ORDER BY id"))
            return [(row.statement, row.state) for row in rows]

    def tables_of(self, shard: str, schema: str) -> set[str]:
        rows = self.sql(shard, f"select tablename from pg_tables where schemaname = '{schema}'")
        return {name for (name,) in rows} - {"shardpool_ddl", "shardpool_transaction", "shardpool_gate"}

    def everywhere(self, table: str, column: str) -> dict[str, bool]:
        """Partition schema -> whether its table has the column."""
        return {
            schema: bool(
                self.sql(
                    shard,
                    f"select 1 from information_schema.columns where table_schema = '{schema}' "
                    f"and table_name = '{table}' and column_name = '{column}'",
                )
            )
            for shard in SHARDS
            for schema in PARTITIONS[shard]
        }

    def drift(self) -> list[Drift]:
        return find_drift(self.catalog, self.engines, self.catalog.load())
