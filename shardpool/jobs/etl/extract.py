"""What is read: a query that each partition answers for itself, or all together, or one of another database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shardpool.bulk.database_source import DATABASE
from shardpool.bulk.query_source import Extract, describe_query
from shardpool.engines import Engines
from shardpool.errors import JobRefused, UnknownTable
from shardpool.executor.explain import Explanation
from shardpool.jobs.following import following_moves
from shardpool.planner.plan import SCHEMA_MARKER, Concatenation, PushdownPlan, ReferencePlan, SinglePlan
from shardpool.router import Router
from shardpool.topology.names import literal, quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

#: What the rows are called where nothing is loaded into a table: files, samples.
NAME = "rows"


def query_of(extract: Mapping[str, Any]) -> str:
    """Return the query of [extract]."""
    if "query" in extract:
        return str(extract["query"]).rstrip().rstrip(";")
    return f"SELECT * FROM {quote(extract['table'])}"


def windowed(extract: Extract, column: str, low: str | None, high: str | None) -> Extract:
    """Return *extract* with only the rows whose *column* is above *low* and up to *high*; none without a *high*."""
    bounds = [(">", low), ("<=", high)]
    conditions = [f"{quote(column)} {sign} {literal(bound)}" for sign, bound in bounds if bound is not None]
    # The filter is of single rows: it may stand in each partition.
    where = " AND ".join(conditions) if high is not None else "false"
    return replace(extract, sql=f"SELECT * FROM ({extract.sql}) AS recent WHERE {where}")


def keyspace_extract(router: Router, document: Mapping[str, Any]) -> Extract:
    """Return where and how a query of the keyspace runs: in each partition, or as a whole, if its answer is more than
    theirs one after another (an aggregate over all rows, a LIMIT, a join across partitions).

    Raise `JobRefused` for a key that cannot cut it then.
    """
    extract = document["extract"]
    if "table" in extract and extract["table"] not in router.topology.tables:
        raise UnknownTable(extract["table"], router.topology.keyspace, list(router.topology.tables))
    query = query_of(extract)
    explanation = router.explain(query)
    if not isinstance(explanation, Explanation):
        raise JobRefused("extract.query writes: extract is a SELECT")
    plan = explanation.plan
    everywhere: tuple[int, ...] | None
    whole = False
    match plan:
        case PushdownPlan(partial, by_shard, Concatenation(None, None)):
            sql = partial
            everywhere = tuple(sorted(it.id for partitions in by_shard.values() for it in partitions))
        case SinglePlan(placement, sql):
            everywhere = (placement.partition.id,)
        case ReferencePlan(sql):
            everywhere = None
        case _:
            sql, everywhere, whole = query, None, True
            if "key" in extract:
                raise JobRefused("extract.key cannot cut a query that only all partitions together can answer")
    if not whole:
        sql = sql.replace("%%", "%")

    def describe(topology: Topology) -> Table:
        placement = topology.shard_map.placements[0]
        shard = placement.shard if everywhere is not None else min(topology.shard_map.shards)
        with router.engines.borrow(shard) as connection, connection.cursor() as cursor:
            cursor.execute(topology.search_paths[placement.partition.id])
            described = sql.replace(SCHEMA_MARKER, quote(placement.partition.schema))
            return describe_query(cursor, document["load"].get("table", NAME), described, _key(router, extract))

    table = following_moves(router, describe)
    if "since" in extract and table.column(extract["since"]) is None:
        raise JobRefused(f"extract.since names {extract['since']}, which the rows do not have")
    return Extract(table, sql, everywhere, whole)


def database_extract(engines: Engines, document: Mapping[str, Any]) -> Extract:
    """Return the query of another database."""
    query = query_of(document["extract"])
    with engines.borrow(DATABASE) as connection, connection.cursor() as cursor:
        name = document["load"].get("table", NAME)
        return Extract(describe_query(cursor, name, query, document["extract"].get("key", ())), query, None)


def _key(router: Router, extract: Mapping[str, Any]) -> tuple[str, ...]:
    if "key" in extract:
        return tuple(extract["key"])
    return router.topology.tables[extract["table"]].primary_key if "table" in extract else ()
