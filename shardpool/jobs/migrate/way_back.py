"""The way back of an import: what is written to the keyspace after the switch is noted, and brought to the old tables.

Notes are those of replicating (`replicate.capture`). Going back is another switch: rows are brought over while writers
go on, then the keyspace's tables refuse writes, the rest is brought over, all rows are compared, and the old tables
open. Until they do, nothing is lost by trying again, or by not going back after all.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg2

from shardpool.bulk.database_source import DATABASE
from shardpool.bulk.digest import Digest
from shardpool.bulk.runner import PauseJob, RunOptions
from shardpool.bulk.translate import refused
from shardpool.bulk.upsert import Upsert
from shardpool.faults import fault_point
from shardpool.jobs.copy_schema import FEED
from shardpool.jobs.following import change_schema, following_moves
from shardpool.jobs.keyed_rows import Key, delete_rows
from shardpool.jobs.migrate.capture import MAY_WRITE
from shardpool.jobs.migrate.finish import Ends, switch_back, verify_frozen
from shardpool.jobs.migrate.survey import Survey
from shardpool.jobs.replicate.capture import log_of, start_capture, stop_capture
from shardpool.jobs.replicate.changes import Page
from shardpool.jobs.replicate.follow import Follower
from shardpool.router import Router
from shardpool.topology.names import literal, quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

if TYPE_CHECKING:
    from shardpool.engines import Engines

_BACK = "this table has moved back to the database that it came from; write there"


def keep_way_back(ends: Ends, job: str, stages: Mapping[str, int]) -> None:
    """Note what is written to the keyspace from now on. Idempotent. Raise `SchemaError`, `SchemaBusy`."""
    start_capture(ends.router, job, sharded(ends, stages))


def has_way_back(ends: Ends, job: str) -> bool:
    """Whether all that was written to sharded tables since the switch is known."""
    return any(log_of(job, name) in ends.router.topology.tables for name in ends.tables)


def close_way_back(ends: Ends, job: str) -> None:
    """Note nothing any more. Idempotent. Raise `SchemaError`, `SchemaBusy`."""
    stop_capture(ends.router, job, ends.tables)


def go_back(
    ends: Ends, job: str, stages: Mapping[str, int], found: Survey, options: RunOptions
) -> Mapping[str, Digest]:
    """Bring what was written over, and open the old tables; the keyspace's refuse writes then.

    Raise `JobRefused` if rows differ, as those of reference tables do when they were written since: nothing is changed.
    """
    tables = sharded(ends, stages)
    receiver = _OldTables(ends.engines, found.identities)

    def bring() -> None:
        follower = Follower(ends.router, job, tables, receiver, options.workers, options.patience, once=True)
        with suppress(PauseJob):
            follower.run(lambda following: True)

    bring()
    fence_keyspace(ends.router, job, tables)
    fault_point("fenced-back")
    try:
        bring()
        verify_frozen(ends)
        _count_on(ends.engines, [it for it in found.counted if it[0] in ends.tables])
    except BaseException:
        lift_fence(ends.router, job, tables)
        raise
    close_way_back(ends, job)
    fault_point("way-back-closed")
    return switch_back(ends)


def sharded(ends: Ends, stages: Mapping[str, int]) -> dict[str, Table]:
    """Return the sharded tables, those that others refer to first."""
    known = ends.router.topology.tables
    names = sorted((name for name in ends.tables if known[name].sharded), key=lambda name: (stages[name], name))
    return {name: known[name] for name in names}


class _OldTables:
    """Takes changes: rows over those with their keys, parents first, and then what is gone, children first."""

    def __init__(self, engines: Engines, identities: Collection[tuple[str, str]]) -> None:
        self._engines, self._identities = engines, identities

    def begin(self, job: uuid.UUID) -> None:
        """The job's lock is enough: whoever goes back watches."""

    def take(self, partition: int, pages: Iterable[Page]) -> int:
        with self._engines.borrow(DATABASE) as connection:
            try:
                with connection.cursor() as cursor:
                    cursor.execute(f"{MAY_WRITE}; SET LOCAL lock_timeout = '30s'")
                    count = self._apply(cursor, pages)
                connection.commit()
                return count
            except psycopg2.Error as error:
                raise refused(error, DATABASE, gone=bool(connection.closed)) from error

    def _apply(self, cursor: Any, pages: Iterable[Page]) -> int:
        count = 0
        gone: list[tuple[Table, list[Key]]] = []
        for page in pages:
            count += len(page.keys)
            if page.records:
                # One that was changed all the same is found by the comparison.
                kept = [column for table, column in self._identities if table == page.table.name]
                write = Upsert(page.table, kept)
                write(cursor.connection, "", quote(page.table.name), page.table.insertable, page.records, 0)
            gone.append((page.table, page.gone()))
        cursor.execute("SELECT current_schema()")
        (schema,) = cursor.fetchone()
        for table, keys in reversed(gone):
            if keys:
                delete_rows(cursor, schema, table, keys)
        return count


def fence_keyspace(router: Router, job: str, tables: Collection[str]) -> None:
    """Refuse writes to the keyspace's tables. Idempotent. Raise `SchemaError`, `SchemaBusy`."""
    if _is_fenced(router, job, tables):
        return
    name = quote(_fence(job))
    raising = (
        f"BEGIN RAISE EXCEPTION USING errcode = 'object_not_in_prerequisite_state', message = {literal(_BACK)}; END"
    )
    statements = [f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS {literal(raising)}"]
    statements += [
        f"CREATE TRIGGER {name} BEFORE INSERT OR UPDATE OR DELETE ON {quote(table)} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
        for table in tables
    ]
    change_schema(router, ";\n".join(statements), {})


def lift_fence(router: Router, job: str, tables: Collection[str]) -> None:
    """Let the keyspace be written. Idempotent. Raise `SchemaError`, `SchemaBusy`."""
    if _is_fenced(router, job, tables):
        name = quote(_fence(job))
        drops = [f"DROP TRIGGER {name} ON {quote(table)}" for table in tables]
        change_schema(router, ";\n".join([*drops, f"DROP FUNCTION {name}()"]), {})


def _is_fenced(router: Router, job: str, tables: Collection[str]) -> bool:
    def look(topology: Topology) -> bool:
        placement = topology.shard_map.placements[0]
        with router.engines.borrow(placement.shard) as connection, connection.cursor() as cursor:
            # A schema that has moved away is an error, and not one without a fence.
            cursor.execute(
                "SELECT EXISTS (SELECT FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid WHERE g.tgname = %s "
                "AND c.relnamespace = %s::regnamespace AND c.relname = ANY(%s))",
                (_fence(job), quote(placement.partition.schema), list(tables)),
            )
            return bool(cursor.fetchone()[0])

    return following_moves(router, look)


def _fence(job: str) -> str:
    return f"{FEED}{job}__back"


def _count_on(engines: Engines, counted: Collection[tuple[str, str]]) -> None:
    """Let columns that count by themselves go on after the largest value."""
    with engines.borrow(DATABASE) as connection:
        with connection.cursor() as cursor:
            for table, column in counted:
                cursor.execute(
                    f"SELECT setval(sequence, greatest(max({quote(column)}), nextval(sequence))) FROM {quote(table)}, "
                    f"CAST(pg_get_serial_sequence({literal(quote(table))}, {literal(column)}) AS regclass) AS sequence "
                    "WHERE sequence IS NOT NULL GROUP BY sequence"
                )
        connection.commit()
