"""What the tests of loads stand on: the keyspace ``shop`` made by hand on two servers, and a plain copy of its tables.

`make_shop` creates it, `Shop` opens it by its URLs, also in another process. Every sharded table has its like in the
schema ``plain`` of the first shard: the oracle, which is loaded by one plain COPY.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import psycopg2
import psycopg2.extras

from shardpool.bulk import LoadResult, copy_into
from shardpool.catalog import Catalog, ShardIdentity
from shardpool.config import parse_config
from shardpool.engines import Engines
from shardpool.topology.key import KEY_TYPES
from shardpool.topology.shard_map import Placement, Shard, ShardMap, Topology, even_ranges, new_partition
from shardpool.topology.tables import Column, Table

PARTITIONS = 4

#: Table -> (columns, key). The first table has what the readers of other columns must not care about.
SHARDED: Mapping[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
    "item": (
        {"id": "bigint", "name": "text", "price": "numeric(10,2)", "sold": "boolean", "note": "text"},
        ("id",),
    ),
    "late": ({"note": "text", "n": "integer", "id": "bigint"}, ("id",)),
    "single": ({"k": "text"}, ("k",)),
    "by_smallint": ({"k": "smallint", "n": "integer"}, ("k",)),
    "by_integer": ({"k": "integer", "n": "integer"}, ("k",)),
    "by_bigint": ({"k": "bigint", "n": "integer"}, ("k",)),
    "by_text": ({"n": "integer", "k": "text"}, ("k",)),
    "by_varchar": ({"k": "character varying(5)", "n": "integer"}, ("k",)),
    "by_uuid": ({"k": "uuid", "n": "integer"}, ("k",)),
    "by_bytea": ({"n": "integer", "k": "bytea"}, ("k",)),
    "by_date": ({"k": "date", "n": "integer"}, ("k",)),
    "by_pair": ({"b": "text", "n": "integer", "a": "integer"}, ("a", "b")),
    "things": (
        {"id": "bigint", "b": "bytea", "u": "uuid", "ok": "boolean", "at": "timestamp with time zone", "j": "jsonb"}
        | {"tags": "text[]", "grid": "integer[]", "f": "double precision", "gap": "interval", "t": "time"},
        ("id",),
    ),
}

#: What the tables have besides their columns.
CONSTRAINTS = {"late": "UNIQUE (id, n), CHECK (n <> 13)"}

COUNTRY = {"code": "text", "name": "text"}


def topology_of(urls: Mapping[str, str]) -> Topology:
    """Partitions 0 and 2 on the first shard, 1 and 3 on the second."""
    names = list(urls)
    placements = [
        Placement(new_partition("shop", number, low, high), names[number % len(names)], 1)
        for number, (low, high) in enumerate(even_ranges(PARTITIONS))
    ]
    tables = {
        name: Table(
            name,
            tuple(Column(column, type_) for column, type_ in columns.items()),
            key=key,
            key_types=tuple(KEY_TYPES[columns[column].partition("(")[0]] for column in key),
        )
        for name, (columns, key) in SHARDED.items()
    }
    tables["country"] = Table("country", tuple(Column(name, type_) for name, type_ in COUNTRY.items()))
    return Topology(
        "shop", ShardMap("shop", 1, {name: Shard(name, url) for name, url in urls.items()}, placements), tables
    )


def ddl(schema: str, name: str, columns: Mapping[str, str]) -> str:
    parts = [f"{column} {type_}" for column, type_ in columns.items()]
    if name in CONSTRAINTS:
        parts.append(CONSTRAINTS[name])
    return f"CREATE TABLE {schema}.{name} ({', '.join(parts)})"


class Shop:
    """The keyspace, opened: topology, engines, catalog, and direct connections (in autocommit) to its shards."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        shards = {name: {"url": url} for name, url in urls.items()}
        first = next(iter(urls.values()))
        self.config = parse_config(
            {"keyspace": "shop", "partitions": PARTITIONS, "catalog": first, "shards": shards}, source="test"
        )
        self.urls = urls
        self.topology = topology_of(urls)
        self.engines = Engines(self.config)
        self.catalog = Catalog(self.config.catalog, "shop")
        self.direct = {name: connect(url) for name, url in urls.items()}

    def close(self) -> None:
        self.engines.close()
        self.catalog.close()
        for connection in self.direct.values():
            connection.close()

    # -- asking ----------------------------------------------------------------------------------------------------

    def rows_on(self, shard: str, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self.direct[shard].cursor() as cursor:
            cursor.execute(query, values or None)
            return list(cursor.fetchall())

    def partition_rows(self, table: str) -> dict[int, list[tuple[Any, ...]]]:
        """Return partition id -> the rows of *table* there."""
        return {
            placement.partition.id: self.rows_on(placement.shard, f"SELECT * FROM {placement.partition.schema}.{table}")
            for placement in self.topology.shard_map.placements
        }

    def rows(self, table: str) -> list[str]:
        """Return all rows of a sharded table as text, sorted; check that each is where its key belongs."""
        found = []
        definition = self.topology.tables[table]
        names = [column.name for column in definition.columns]
        for partition, rows in self.partition_rows(table).items():
            for row in rows:
                values = dict(zip(names, map(_python, row), strict=True))
                key = tuple(values[name] for name in definition.key)
                place = self.topology.place(key if len(key) > 1 else key[0], definition.key_types)
                assert place.partition.id == partition, (table, key)
                found.append(repr(tuple(map(_python, row))))
        return sorted(found)

    def plain_rows(self, table: str) -> list[str]:
        return sorted(
            repr(tuple(map(_python, row)))
            for row in self.rows_on(next(iter(self.urls)), f"SELECT * FROM plain.{table}")
        )

    def prepared(self) -> list[str]:
        query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        return [gid for shard in self.urls for (gid,) in self.rows_on(shard, query)]

    def decisions(self) -> list[bool]:
        query = "SELECT committed FROM shardpool_catalog.load_decision"
        return [committed for (committed,) in self.rows_on(next(iter(self.urls)), query)]

    def key_on(self, shard: str, start: int = 1) -> int:
        """Return the first integer from *start* whose partition is on *shard*."""
        types = self.topology.tables["item"].key_types
        return next(key for key in range(start, start + 1000) if self.topology.place(key, types).shard == shard)

    # -- doing -----------------------------------------------------------------------------------------------------

    def load(self, table: str, source: Any, **options: Any) -> LoadResult:
        return copy_into(self.topology, self.engines, self.catalog, table, source, **options)

    def plain_copy(self, table: str, data: bytes, options: str) -> None:
        """Load the oracle by one COPY. Raise psycopg2's errors."""
        with self.direct[next(iter(self.urls))].cursor() as cursor:
            cursor.copy_expert(f"COPY plain.{table} FROM STDIN WITH ({options})", io.BytesIO(data))

    def empty(self) -> None:
        """Remove all rows."""
        for name in self.urls:
            self.execute(name, "; ".join(f"TRUNCATE {table}" for table in self.tables_on(name)))
        self.execute(next(iter(self.urls)), "TRUNCATE shardpool_catalog.load_decision")

    def tables_on(self, shard: str) -> list[str]:
        query = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname ~ '^(shop|plain)'"
        return [table for (table,) in self.rows_on(shard, query)]

    def execute(self, shard: str, statement: str) -> None:
        with self.direct[shard].cursor() as cursor:
            cursor.execute(statement)


def _python(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def connect(url: str) -> Any:
    connection = psycopg2.connect(url.replace("postgresql+psycopg2", "postgresql"), client_encoding="utf8")
    connection.autocommit = True
    psycopg2.extras.register_uuid(conn_or_curs=connection)
    return connection


def make_shop(urls: Mapping[str, str]) -> Shop:
    """Create the catalog, the schemas and the tables, and open them."""
    shop = Shop(urls)
    for name in urls:
        shop.execute(
            name,
            "CREATE SCHEMA shop; CREATE TABLE shop.shardpool_gate (); CREATE SCHEMA plain; "
            + ddl("shop", "country", COUNTRY),
        )
        for placement in shop.topology.shard_map.placements:
            if placement.shard == name:
                schema = placement.partition.schema
                statements = [ddl(schema, table, columns) for table, (columns, _) in SHARDED.items()]
                shop.execute(name, "; ".join([f"CREATE SCHEMA {schema}", *statements]))
        shop.execute(name, "; ".join(ddl("plain", table, columns) for table, (columns, _) in SHARDED.items()))
    identities = {name: ShardIdentity(name, name) for name in urls}
    shop.catalog.initialise(shop.config, identities)
    return shop


def wait_for(condition: Callable[[], bool], limit: int = 20_000) -> None:
    """Ask again and again, each time a round trip to a server, until *condition* holds."""
    for _ in range(limit):
        if condition():
            return
    raise AssertionError("waited in vain")
