"""The tables of a database that takes a keyspace: what rows need at first; keys, indexes, triggers when they are there.

So rows are not sorted into indexes one by one, no foreign key is looked up for each, and triggers do not do their work
a second time. What is left for later is written down in the database itself, in the transaction that creates the
tables: whoever goes on with the job, or runs another into these tables, finds it. That the result is the same is tried
with the empty tables first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg2

from shardpool.bulk.database_sink import ALONE, drop_if_empty, is_there
from shardpool.bulk.database_source import DATABASE
from shardpool.ddl.compaction import compact
from shardpool.ddl.features import read_features
from shardpool.ddl.log import Recorded
from shardpool.errors import JobRefused
from shardpool.faults import fault_point
from shardpool.topology.names import quote

if TYPE_CHECKING:
    from shardpool.engines import Engines

LATER = "shardpool_jobs.later"
_CREATE = f"""
{ALONE};
CREATE SCHEMA IF NOT EXISTS shardpool_jobs;
CREATE TABLE IF NOT EXISTS {LATER} (schema text, number int, statement text NOT NULL, PRIMARY KEY (schema, number))
"""
#: Keys of tables, primary ones first: table, name, definition.
_KEYS = """
SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint
WHERE contype IN ('p', 'u', 'x') AND conrelid = ANY(%s::regclass[]) ORDER BY 1, contype <> 'p', 2
"""
#: What changes the schema waits so long for locks; to build an index takes as long as it takes.
_LIMITS = "SET LOCAL lock_timeout = '30s'; SET LOCAL statement_timeout = 0"

Found = TypeVar("Found")


def create_tables(cursor: Any, schema: str, log: Sequence[Recorded], tables: Sequence[str]) -> None:
    """Do in *schema*, which is first on the search path, what the statements of *log* did in a keyspace, as far as rows
    need it; leave the rest, and the keys of *tables*, to `build_rest`. Raise `JobRefused` if a statement is refused.
    """
    cursor.execute(f"{_LIMITS}; {_CREATE}")
    all_now = [it.statement.text for it in log]
    wanted = _try(cursor, all_now, lambda: read_features(cursor, schema))
    if isinstance(wanted, psycopg2.Error):
        raise JobRefused(f"the database refuses the keyspace's tables: {_first_line(wanted)}") from wanted
    statements = [it.statement for it in compact(log)]
    now = [it.text for it in statements if it.scope == "shard" or not it.after_copy]
    later = [it.text for it in statements if it.scope != "shard" and it.after_copy]
    choices = [(now, later), (all_now, [])]
    keys = _try(cursor, now, lambda: _keys(cursor, tables))
    if not isinstance(keys, psycopg2.Error):
        without = [f"ALTER TABLE {table} DROP CONSTRAINT {name}" for table, name, _ in keys]
        added = [f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}" for table, name, definition in keys]
        choices.insert(0, ([*now, *without], [*added, *later]))
    for first, rest in choices:
        if _try(cursor, [*first, *rest], lambda: read_features(cursor, schema)) == wanted:
            break
    for statement in first:
        cursor.execute(statement)
    cursor.execute(f"DELETE FROM {LATER} WHERE schema = %s", (schema,))
    for number, statement in enumerate(rest):
        cursor.execute(f"INSERT INTO {LATER} VALUES (%s, %s, %s)", (schema, number, statement))


def build_rest(engines: Engines, schema: str) -> None:
    """Do what *schema* was left to be done later, each statement in a transaction of its own. Raise `JobRefused`."""
    number: int | None = -1
    while number is not None:
        number = _build_next(engines, schema)
        fault_point(f"built-{number}")


def _build_next(engines: Engines, schema: str) -> int | None:
    """Do the next one, and return its number; without any, clear up."""
    with engines.borrow(DATABASE) as connection, connection.cursor() as cursor:
        cursor.execute(_LIMITS)
        if not is_there(cursor, LATER):
            return None
        cursor.execute(
            f"SELECT number, statement FROM {LATER} WHERE schema = %s ORDER BY 1 LIMIT 1 FOR UPDATE", (schema,)
        )
        found = cursor.fetchone()
        if found is None:
            connection.rollback()
            _clear_up(cursor)
        else:
            try:
                cursor.execute(found[1])
            except psycopg2.Error as error:
                raise JobRefused(f"the rows are there, but {found[1]!r} is refused: {_first_line(error)}") from error
            cursor.execute(f"DELETE FROM {LATER} WHERE schema = %s AND number = %s", (schema, found[0]))
        connection.commit()
        return found and int(found[0])


def _clear_up(cursor: Any) -> None:
    """Drop the table of what is left if nothing is, of any schema."""
    cursor.execute(f"{_LIMITS}; {ALONE}")
    if is_there(cursor, LATER):
        drop_if_empty(cursor, LATER)


def _keys(cursor: Any, tables: Sequence[str]) -> list[tuple[str, str, str]]:
    cursor.execute(_KEYS, ([quote(name) for name in tables],))
    return [(table, name, definition) for table, name, definition in cursor.fetchall()]


def _try(cursor: Any, statements: Sequence[str], look: Callable[[], Found]) -> Found | psycopg2.Error:
    """Run *statements*, return what *look* finds then, or what went wrong, and take them back."""
    cursor.execute("SAVEPOINT shardpool_try")
    try:
        for statement in statements:
            cursor.execute(statement)
        return look()
    except psycopg2.Error as error:
        if cursor.connection.closed:
            raise
        return error
    finally:
        if not cursor.connection.closed:
            cursor.execute("ROLLBACK TO SAVEPOINT shardpool_try")


def _first_line(error: psycopg2.Error) -> str:
    return (error.diag.message_primary or str(error)).splitlines()[0]
