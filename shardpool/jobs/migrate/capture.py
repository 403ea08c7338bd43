"""Capturing changes on the database that is moved in: triggers note the keys of rows that changed.

Only keys are noted; the rows are read again when they are applied. So it does not matter in which order, or how often.
`fence` is the end: after it, every write to the old tables is refused by the database itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from psycopg2 import errors
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from shardpool.topology.names import literal, quote
from shardpool.topology.tables import Table

SCHEMA = "shardpool_capture"
#: How long a try waits for a table's writers, who would queue behind it; and how many tries there are.
LOCK_TIMEOUT, TRIES = "500ms", 20

_START = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE TABLE IF NOT EXISTS {SCHEMA}.changed (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, key text[] NOT NULL
);
CREATE OR REPLACE FUNCTION {SCHEMA}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'object_not_in_prerequisite_state';
END $$;
CREATE OR REPLACE FUNCTION {SCHEMA}.fence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('shardpool.way_back', true), '') <> 'on' THEN
        RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NULL;
END $$;
GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC;
"""
#: Before it, the tables that have moved take what comes back.
MAY_WRITE = "SET LOCAL shardpool.way_back = 'on'"
#: Keys are noted as text, which depends on no writer's settings.
_SETTINGS = (
    "SET search_path = pg_catalog SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET timezone = 'UTC' "
    "SET bytea_output = 'hex' SET extra_float_digits = 1"
)

_MOVED = "this table has moved to a shardpool keyspace; write there"
_NO_TRUNCATE = "this table is being moved to a shardpool keyspace: it cannot be truncated meanwhile"


def start_capture(connection: Any, tables: Mapping[str, Table]) -> None:
    """Note changes from now on. Idempotent. Waits for the transactions that write the tables now, each in turn."""
    with connection.cursor() as cursor:
        cursor.execute(_START)
    connection.commit()
    for number, name in enumerate(sorted(tables)):
        _patiently(connection, partial(_add_triggers, connection, number, tables[name]))


def _add_triggers(connection: Any, number: int, table: Table) -> None:
    relation, function = quote(table.name), f"{SCHEMA}.note_{number}"
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = %s::regclass AND tgname = 'shardpool_note')",
            (relation,),
        )
        if cursor.fetchone()[0]:
            return
        cursor.execute(_note_function(function, table))
        cursor.execute(
            f"CREATE TRIGGER shardpool_note AFTER INSERT OR UPDATE OR DELETE ON {relation} "
            f"FOR EACH ROW EXECUTE FUNCTION {function}(); "
            f"CREATE TRIGGER shardpool_no_truncate BEFORE TRUNCATE ON {relation} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.refuse({literal(_NO_TRUNCATE)}); "
            f"ALTER TABLE {relation} ENABLE ALWAYS TRIGGER shardpool_note; "
            f"ALTER TABLE {relation} ENABLE ALWAYS TRIGGER shardpool_no_truncate"
        )


def _note_function(function: str, table: Table) -> str:
    old, new = (
        "ARRAY[" + ", ".join(f"{row}.{quote(name)}::text" for name in table.primary_key) + "]" for row in ("OLD", "NEW")
    )
    insert = f"INSERT INTO {SCHEMA}.changed (name, key) VALUES ({literal(table.name)}, "
    return f"""
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {_SETTINGS} AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN {insert}{old}); END IF;
    IF TG_OP = 'INSERT' THEN {insert}{new});
    ELSIF TG_OP = 'UPDATE' AND {old} <> {new} THEN {insert}{new});
    END IF;
    RETURN NULL;
END $$"""


def lock_and(connection: Any, tables: Collection[str], work: Any) -> Any:
    """Keep writers off all tables while *work* runs, in one transaction. Raise `LockNotAvailable` if they hold on."""

    def locked() -> Any:
        with connection.cursor() as cursor:
            names = ", ".join(quote(name) for name in sorted(tables))
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; LOCK TABLE {names} IN EXCLUSIVE MODE")
        return work()

    return _patiently(connection, locked)


def fence(cursor: Any, tables: Collection[str]) -> None:
    """Refuse all writes to the tables from the commit of this transaction on, and stop noting."""
    for name in sorted(tables):
        relation = quote(name)
        cursor.execute(
            f"CREATE TRIGGER shardpool_moved BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {relation} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.fence({literal(_MOVED)}); "
            f"ALTER TABLE {relation} ENABLE ALWAYS TRIGGER shardpool_moved; "
            f"DROP TRIGGER IF EXISTS shardpool_note ON {relation}; "
            f"DROP TRIGGER IF EXISTS shardpool_no_truncate ON {relation}"
        )


def is_fenced(cursor: Any, tables: Collection[str]) -> bool:
    """Whether `fence` was committed."""
    cursor.execute(
        "SELECT count(*) FROM pg_trigger WHERE tgname = 'shardpool_moved' AND tgrelid = ANY(%s::regclass[])",
        ([quote(name) for name in tables],),
    )
    return int(cursor.fetchone()[0]) == len(tables)


def stop_capture(connection: Any, tables: Collection[str]) -> None:
    """Remove everything that a move-in has put into the database, the fence too: the tables are as they were."""

    def remove() -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            for name in sorted(tables):
                for trigger in ("shardpool_note", "shardpool_no_truncate", "shardpool_moved"):
                    cursor.execute(f"DROP TRIGGER IF EXISTS {trigger} ON {quote(name)}")
            cursor.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")

    _patiently(connection, remove)


def _patiently(connection: Any, work: Any) -> Any:
    """Do *work* and commit, again and again while locks are in the way."""
    retrying = Retrying(
        retry=retry_if_exception_type((errors.LockNotAvailable, errors.DeadlockDetected)),
        stop=stop_after_attempt(TRIES),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        before_sleep=lambda state: connection.rollback(),
        reraise=True,
    )

    def attempt() -> Any:
        result = work()
        connection.commit()
        return result

    return retrying(attempt)
