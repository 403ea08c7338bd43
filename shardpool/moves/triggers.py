"""Noting which rows are written while they are copied: the keys only, by triggers, in a schema beside the partition's.

A trigger on each table adds the key of every row that is inserted, changed or deleted to a log, as it was and as it is.
The log says *that* a row changed and not what became of it: `rounds` reads that from the row itself. So the order of
the log means nothing, and a key may be noted twice.

The log is written in the writer's own transaction, and with the rights of the move's role. It is in a schema of its
own, so that one DROP takes log, functions and triggers away; triggers on the old tables also go with these.

A log that was there before a crash of its server may lack what writers with `synchronous_commit = off` had written, and
the copy may have it. So a move does not go on after such a crash: PostgreSQL empties the unlogged table `alive`. The
logs themselves are unlogged, too, which costs the writers less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardpool import faults
from shardpool.errors import MoveError
from shardpool.moves.captured import Captured, captured_tables
from shardpool.moves.lock import once_writers_ended
from shardpool.moves.move import Move
from shardpool.topology.names import literal, quote

#: The triggers' names begin with this; `ddl.features` leaves them out.
TRIGGER = "shardpool_capture"


def create_triggers(move: Move) -> None:
    """Begin to note writes: what is committed later than this is noted, or was there to be copied."""
    record, source = move.record, move.servers.source
    tables = captured_tables(move, source, record.schema)
    with source.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {quote(record.capture)}")
        for statement in _definitions(record.capture, record.schema, record.partition, tables):
            cursor.execute(statement)
    source.commit()
    faults.fault_point("move:capture:inside")
    triggers = "; ".join(_triggers(record.capture, record.schema, it) for it in tables)
    # Whoever has written ends before the lock is granted; whoever writes later meets the triggers.
    once_writers_ended(move, [it.table.name for it in tables], triggers)


def create_capture(
    connection: Any, capture_schema: str, schema: str, partition: int, tables: Sequence[Captured]
) -> None:
    """Create logs, functions and triggers for tables that nobody uses, in the transaction of the connection."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {quote(capture_schema)}")
        for statement in _definitions(capture_schema, schema, partition, tables):
            cursor.execute(statement)
        for it in tables:
            cursor.execute(_triggers(capture_schema, schema, it))


def check_triggers(move: Move) -> None:
    """Raise `MoveError` if a trigger is gone or was switched off: then what was written meanwhile is not known."""
    record, source = move.record, move.servers.source
    query = """
        SELECT count(*) FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
        JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE c.relnamespace = to_regnamespace(%s) AND n.nspname = %s AND g.tgenabled = 'A'
    """
    with source.cursor() as cursor:
        cursor.execute(query, (quote(record.schema), record.capture))
        (found,) = cursor.fetchone()
    expected = 2 * len(captured_tables(move, source, record.schema))
    if found != expected:
        raise MoveError(
            f"{record}: {found} of {expected} triggers that note writes are in force on {record.source}: somebody "
            f"dropped or disabled them, or replaced a table; nothing was moved"
        )


def logs_are_whole(connection: Any, schema: str) -> bool:
    """Whether a log is there, and no crash of its server can have taken anything from it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{quote(schema)}.alive",))
        if not cursor.fetchone()[0]:
            return False
        cursor.execute(f"SELECT count(*) FROM {quote(schema)}.alive")
        return bool(cursor.fetchone()[0])


def silence(connection: Any, schema: str) -> None:
    """Let the triggers do nothing; that needs no table."""
    query = """
        SELECT format('CREATE OR REPLACE FUNCTION %%I.%%I() RETURNS trigger LANGUAGE plpgsql AS %%L',
                      n.nspname, p.proname, 'BEGIN RETURN NULL; END')
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = %s
    """
    with connection.cursor() as cursor:
        cursor.execute(query, (schema,))
        for (statement,) in cursor.fetchall():
            cursor.execute(statement)
    connection.commit()


def _definitions(schema: str, partition_schema: str, partition: int, tables: Sequence[Captured]) -> list[str]:
    """The logs, and the functions that write them.

    Writers wait for these: so there are no conditions, and no search path is set, as no name needs one. Of an INSERT
    the old row is NULL, of a DELETE the new one.
    """
    hint = f"partition {partition} is being moved: DELETE its rows instead, or try again when the move has ended"
    statements = [
        f"CREATE UNLOGGED TABLE {quote(schema)}.alive AS SELECT 1 AS alive",
        f"CREATE FUNCTION {quote(schema)}.refuse() RETURNS trigger LANGUAGE plpgsql AS "
        + literal(
            f"BEGIN RAISE EXCEPTION USING errcode = 'object_in_use', "
            f"message = 'TRUNCATE cannot be followed by a move', hint = {literal(hint)}; END"
        ),
    ]
    for it in tables:
        table, columns = f"{quote(partition_schema)}.{quote(it.table.name)}", ", ".join(sum(it.noted, ()))
        values = ", ".join(f"{row}.{column}" for row in ("old", "new") for column in it.key)
        body = f"BEGIN INSERT INTO {it.log(schema)} VALUES ({values}); RETURN NULL; END"
        statements += [
            f"CREATE UNLOGGED TABLE {it.log(schema)} ({columns}) AS "
            f"SELECT {it.columns}, {it.columns} FROM {table} WITH NO DATA",
            f"CREATE FUNCTION {quote(schema)}.note_{it.number}() RETURNS trigger LANGUAGE plpgsql "
            f"SECURITY DEFINER AS {literal(body)}",
        ]
    return statements


def _triggers(schema: str, partition_schema: str, it: Captured) -> str:
    """Also for sessions that have switched ordinary triggers off."""
    table = f"{quote(partition_schema)}.{quote(it.table.name)}"
    functions = {f"{TRIGGER}_rows": f"note_{it.number}", f"{TRIGGER}_truncate": "refuse"}
    events = {
        f"{TRIGGER}_rows": "AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW",
        f"{TRIGGER}_truncate": "BEFORE TRUNCATE ON {} FOR EACH STATEMENT",
    }
    return "; ".join(
        f"CREATE TRIGGER {name} {events[name].format(table)} EXECUTE FUNCTION {quote(schema)}.{function}(); "
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}"
        for name, function in functions.items()
    )
