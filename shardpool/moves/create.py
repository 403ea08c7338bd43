"""Building the partition's tables on the target, under a name that no statement uses."""

from __future__ import annotations

import logging
import random
import time
from contextlib import suppress
from typing import Any

import psycopg2

from shardpool.ddl import SchemaManager
from shardpool.errors import CutoverTimeout, MoveError, SchemaBusy, SchemaError, ShardUnavailable
from shardpool.moves.definition import compare_features
from shardpool.moves.grants import carry_grants
from shardpool.moves.journal import Leftover
from shardpool.moves.layout import qualified, read_layout, schemas_of
from shardpool.moves.move import Move
from shardpool.moves.parallel import Work, keep_alive, together
from shardpool.moves.slot import drop_stream
from shardpool.topology.names import quote

log = logging.getLogger(__name__)

#: So often a schema is tried to be dropped before that is left to a later recovery.
DROP_TRIES = 8

_TRIGGERED = """
SELECT DISTINCT format('%%I.%%I', t.nspname, c.relname) FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
JOIN pg_namespace t ON t.oid = c.relnamespace JOIN pg_proc p ON p.oid = g.tgfoid
JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = %s AND t.nspname <> n.nspname ORDER BY 1
"""


def create(move: Move) -> None:
    """Create the schema and the tables, without what must wait for the rows."""
    record, target = move.record, move.servers.target
    if schemas_of(target, [record.result_schema]):
        raise MoveError(f"{record}: shard {record.target} has a schema {record.result_schema} already: drop it")
    move.journal.note_object(record, record.target, record.incoming)
    with target.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {quote(record.incoming)}")
    _replay(move, after_copy=False)
    target.commit()


def finish(move: Move) -> None:
    """Create foreign keys, triggers and indexes over the rows, and let the planner know them."""
    build_rest(move)
    move.servers.target.commit()
    analyze(move)


def build_rest(move: Move) -> None:
    """Create foreign keys, triggers and indexes over the rows, without a commit. Raise as `compare_features` does."""
    source, target = move.servers.source, move.servers.target
    together([Work(target, lambda: _replay(move, after_copy=True))], meanwhile=lambda: keep_alive(source))
    for leg in move.legs:
        if leg.record.result == move.record.result:
            compare_features(leg)
    carry_grants(move)


def analyze(move: Move) -> None:
    """Let the planner know the rows."""
    record, source, target = move.record, move.servers.source, move.servers.target

    def run() -> None:
        tables = read_layout(target, record.incoming)
        with target.cursor() as cursor:
            if tables:
                cursor.execute(f"ANALYZE {qualified(record.incoming, tables)}")
        target.commit()

    together([Work(target, run)], meanwhile=lambda: keep_alive(source))


def drop_incoming(move: Move) -> None:
    """Drop what was built on the target; if it cannot be reached, leave that to a later recovery."""
    record = move.record
    for schema in (record.incoming, record.ledger) if record.online else (record.incoming,):
        try:
            dropped = drop_schema(move.servers.target, schema)
        except ShardUnavailable:
            dropped = False
        if dropped:
            move.journal.forget_object(record.id, schema)
        else:
            move.leftovers.append(Leftover(record.id, record.target, schema))


def drop_schema(connection: Any, schema: str) -> bool:
    """Drop a schema that is no longer used, and the slot and publication that are named after it. Return whether it is
    gone: somebody may hold a lock in it.

    Foreign keys to reference tables, and triggers on a partition that is in use, go with it. So it takes tables from
    others for a moment: in short tries, in the order in which these lock (the table, then its log), and never as long
    as PostgreSQL waits before it looks for a deadlock.
    """
    for last in (False,) * (DROP_TRIES - 1) + (True,):
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '500ms'")
                drop_stream(connection, schema)
                cursor.execute(_TRIGGERED, (schema,))
                if triggered := ", ".join(name for (name,) in cursor.fetchall()):
                    cursor.execute(f"LOCK TABLE {triggered} IN ACCESS EXCLUSIVE MODE")
                cursor.execute("SET LOCAL statement_timeout = 0")
                cursor.execute(f"DROP SCHEMA IF EXISTS {quote(schema)} CASCADE")
            connection.commit()
            return True
        except psycopg2.Error as error:
            log.info("schema %s cannot be dropped yet: %s", schema, error)
            with suppress(psycopg2.Error):
                connection.rollback()
            if last or connection.closed:
                return False
            time.sleep(random.uniform(0.05, 0.15))
    return False


def _replay(move: Move, after_copy: bool) -> None:
    record, target = move.record, move.servers.target
    try:
        SchemaManager(move.router.catalog, move.router.engines).replay_partition(target, record.incoming, after_copy)
    except SchemaBusy as error:
        raise CutoverTimeout(f"{record}: on {record.target} others hold locks: {error.__cause__ or error}") from error
    except SchemaError as error:
        raise MoveError(f"{record}: {record.target} refuses the recorded schema: {error.__cause__ or error}") from error
