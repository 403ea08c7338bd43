"""Incremental runs: each takes the rows whose column is beyond what the last finished run of the same job has taken.

The window is fixed when a job begins, so that a resumed one takes the same rows. A row that is committed late, with a
value that lies in an earlier window, is not seen any more: use a column that only grows, and load by upsert.
"""

from __future__ import annotations

from dataclasses import replace

from shardpool.bulk.journal import JobRecord
from shardpool.bulk.query_source import Extract
from shardpool.engines import Engines
from shardpool.errors import JobRefused
from shardpool.jobs.etl.extract import keyspace_extract
from shardpool.jobs.following import following_moves
from shardpool.jobs.spec import JobSpec
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology


def with_window(router: Router, spec: JobSpec, last: JobRecord | None) -> JobSpec:
    """Return the spec with the window of a new run, if it is incremental. *last* is the latest job of its name."""
    extract = spec.document["extract"]
    if "since" not in extract:
        return spec
    if "url" in extract:
        raise JobRefused("extract.since works on tables and queries of the keyspace")
    low = last.spec["document"].get("window", [None, None])[1] if last is not None and last.state == "done" else None
    newest = _newest(router, keyspace_extract(router, spec.document), extract["since"])
    # Without newer rows the window is empty, and stays where it was.
    return replace(spec, document={**spec.document, "window": [low, newest if newest is not None else low]})


def _newest(router: Router, extract: Extract, column: str) -> str | None:
    """Return the largest value of a column, in text."""
    name = quote(column)
    if extract.whole:
        query = f"SELECT max({name})::text FROM ({extract.sql}) AS extract"
        return router.query(query).scalar_one()  # type: ignore[no-any-return]
    found = following_moves(router, lambda topology: _each(router.engines, topology, extract, name))
    definition = extract.table.column(column)
    assert definition is not None
    with router.engines.borrow(min(router.shard_map.shards)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT max(value::{definition.type})::text FROM unnest(%s::text[]) AS value", (found,))
        return cursor.fetchone()[0]  # type: ignore[no-any-return]


def _each(engines: Engines, topology: Topology, extract: Extract, name: str) -> list[str]:
    """Return the largest value of each partition that has one."""
    found: list[str] = []
    for number in extract.partitions or (None,):
        placement = topology.shard_map.placements[0] if number is None else topology.shard_map.placement(number)
        relation = extract.relation(None if number is None else placement.partition.schema)
        with engines.borrow(placement.shard) as connection, connection.cursor() as cursor:
            cursor.execute(topology.search_paths[placement.partition.id])
            cursor.execute(f"SELECT max({name})::text FROM {relation}")
            found += [value for (value,) in cursor.fetchall() if value is not None]
    return found
