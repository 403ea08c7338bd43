"""A topology made by hand: what the planner needs, and no server."""

from __future__ import annotations

from typing import Any

from shardpool.planner.ladder import CompiledQuery, compile_query
from shardpool.planner.plan import Plan
from shardpool.planner.statement import from_text
from shardpool.planner.views import expanded
from shardpool.topology.key import KeyType
from shardpool.topology.shard_map import Placement, Shard, ShardMap, Topology, even_ranges, new_partition
from shardpool.topology.tables import Column, Table, View

KEYSPACE = "shop"


def _table(name: str, columns: str, primary_key: str = "", key: str = "", *types: KeyType) -> Table:
    found = []
    for definition in columns.split(", "):
        column, _, sql_type = definition.partition(" ")
        base, _, collation = sql_type.partition(" COLLATE ")
        found.append(Column(column, base, column in f"{primary_key} {key}".split(), collation))
    return Table(name, tuple(found), tuple(primary_key.split()), tuple(key.split()), types)


TABLES = {
    table.name: table
    for table in (
        _table("country", "code text, name text, customer_id bigint", "code"),
        _table("currency", "id integer, iso character(3), country text", "id"),
        _table(
            "orders",
            "id bigint, customer_id bigint, total numeric(10,2), quantity integer, weight double precision, "
            "ratio real, placed date, placed_at timestamp with time zone, note text, "
            'cnote text COLLATE pg_catalog."C", code text, active boolean, status mood, small smallint',
            "customer_id id",
            "customer_id",
            KeyType.INTEGER,
        ),
        _table(
            "items",
            "customer_id bigint, order_id bigint, line integer, product text, total numeric(10,2)",
            "customer_id order_id line",
            "customer_id",
            KeyType.INTEGER,
        ),
        _table("short", "customer_id integer, v text", "", "customer_id", KeyType.INTEGER),
        _table("visits", "visit_id uuid, customer_id bigint, page text", "visit_id", "visit_id", KeyType.UUID),
        _table("people", "login text, age integer, customer_id bigint", "login", "login", KeyType.TEXT),
        _table("logins", "login character varying(30), n integer", "", "login", KeyType.TEXT),
        _table("cpeople", 'login text COLLATE pg_catalog."C", n integer', "login", "login", KeyType.TEXT),
        _table("daily", "day date, hits integer", "", "day", KeyType.DATE),
        _table("blobs", "k bytea, v integer", "k", "k", KeyType.BYTEA),
        _table(
            "ledger",
            "region text, account integer, entry integer, value numeric",
            "region account entry",
            "region account",
            KeyType.TEXT,
            KeyType.INTEGER,
        ),
        _table(
            "balances",
            "region text, account bigint, closed boolean",
            "region account",
            "region account",
            KeyType.TEXT,
            KeyType.INTEGER,
        ),
        Table(
            "Order Line",
            (Column("Customer Id", "bigint", True), Column("100%", "numeric"), Column("x:y", "text")),
            (),
            ("Customer Id",),
            (KeyType.INTEGER,),
        ),
    )
}


VIEWS = {
    view.name: view
    for view in (
        View(
            "large",
            ("customer_id", "id", "sum"),
            "SELECT customer_id, id, total AS sum FROM shop.orders WHERE total > 50::numeric",
            True,
        ),
        View("largest", ("id", "sum"), "SELECT id, sum FROM shop.large ORDER BY sum DESC LIMIT 3", True),
        View("places", ("code",), "WITH orders AS (SELECT code FROM shop.country) SELECT code FROM orders", False),
        View("Odd View", ("a",), "SELECT 'a%b $1 :c'::text AS a FROM shop.country", False),
        View("endless", ("id",), "SELECT id FROM shop.endless", True),
    )
}


def topology(partitions: int = 4, shards: int = 2) -> Topology:
    """Partitions placed round robin on ``s0``, ``s1``, ..."""
    names = [f"s{number}" for number in range(shards)]
    placements = [
        Placement(new_partition(KEYSPACE, number, low, high), names[number % shards], 1)
        for number, (low, high) in enumerate(even_ranges(partitions))
    ]
    shard_map = ShardMap(KEYSPACE, 1, {name: Shard(name, f"postgresql://host/{name}") for name in names}, placements)
    return Topology(KEYSPACE, shard_map, TABLES, frozenset({"price_of", "lower_mood"}), VIEWS)


TOPOLOGY = topology()


def compiled(sql: str, found: Topology = TOPOLOGY) -> CompiledQuery:
    return compile_query(expanded(from_text(sql), found), found)


def plan(sql: str, params: dict[str, Any] | None = None, found: Topology = TOPOLOGY) -> Plan:
    """Return the plan of a statement for these parameters."""
    return compiled(sql, found).bind(params or {}, found, locking=True)
