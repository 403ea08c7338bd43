"""A replication slot and a publication on the source, by which PostgreSQL itself tells what was written.

Both are named after the schema of the move's capture, which holds what is known of them: so the one cleanup record of
that schema stands for all three, and is written before the first of them exists. A slot holds back the server's log
(WAL) until it is dropped; so wherever that schema is dropped, the slot goes first.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg2

from shardpool.topology.names import quote

if TYPE_CHECKING:
    from shardpool.moves.captured import Captured

log = logging.getLogger(__name__)

#: Publications name the columns that are sent from this version on; earlier ones send whole rows.
COLUMNS_SINCE = 150000
#: So many milliseconds are enough for a server to log which transactions run.
LOGGED_WITHIN = 500

_IDENTITIES = """
SELECT c.relname, c.relreplident::text, c.relpersistence::text, p.indexrelid IS NOT NULL,
       coalesce(p.indisreplident, false),
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY(p.indkey)
               AND a.attgenerated <> ''), coalesce(NOT p.indimmediate, false)
FROM pg_class c LEFT JOIN pg_index p ON p.indrelid = c.oid AND p.indisprimary
WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind = 'r' ORDER BY c.relname
"""

# What would be another publication, or would publish something else.
_FINGERPRINT = """
SELECT concat_ws(' ', p.oid, p.xmin, (SELECT string_agg(concat_ws(':', r.oid, r.xmin, r.prrelid), ' ' ORDER BY r.oid)
                                      FROM pg_publication_rel r WHERE r.prpubid = p.oid))
FROM pg_publication p WHERE p.pubname = %s
"""

_LEFT = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND database = current_database()"


def slot_name(connection: Any, capture: str) -> str:
    """Return the slot's name, which is its own among those of all databases of the server."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT oid FROM pg_database WHERE datname = current_database()")
        unique = hashlib.sha256(f"{cursor.fetchone()[0]} {capture}".encode()).hexdigest()[:16]
    return f"{capture[:46]}_{unique}"


def untold(connection: Any, schema: str) -> list[str]:
    """Return in words which tables of *schema* a slot does not tell the rows of. They must not be published: PostgreSQL
    would refuse to update and delete their rows."""
    found = []
    with connection.cursor() as cursor:
        cursor.execute(_IDENTITIES, (quote(schema),))
        for name, identity, persistence, primary, by_primary, generated, deferrable in cursor.fetchall():
            by_default = identity == "d" and primary and not deferrable
            told = identity == "f" or by_default or (identity == "i" and by_primary)
            if persistence != "p":
                found.append(f"table {name} is not logged")
            elif generated:
                found.append(f"the primary key of table {name} has a generated column")
            elif not told and not primary:
                found.append(f"table {name} has no primary key (ALTER TABLE {quote(name)} REPLICA IDENTITY FULL)")
            elif not told and deferrable:
                found.append(
                    f"the primary key of table {name} is deferrable (ALTER TABLE {quote(name)} REPLICA IDENTITY FULL)"
                )
            elif not told:
                found.append(
                    f"the REPLICA IDENTITY of table {name} is not its primary key (.. REPLICA IDENTITY DEFAULT)"
                )
    return found


def create_publication(connection: Any, capture: str, schema: str, tables: Sequence[Captured]) -> None:
    """Create the publication and the schema that has its fingerprint, in the transaction of the connection.

    The table is unlogged, so that a crash empties it: then a move does not go on, see `triggers`.
    """
    with connection.cursor() as cursor:
        cursor.execute(_IDENTITIES, (quote(schema),))
        whole = {name for name, identity, *_ in cursor.fetchall() if identity == "f"}
        published = [_published(connection, schema, it, it.table.name in whole) for it in tables]
        of = f" FOR TABLE {', '.join(published)}" if published else ""
        options = "publish = 'insert, update, delete, truncate'"
        cursor.execute(f"CREATE PUBLICATION {quote(capture)}{of} WITH ({options})")
        cursor.execute(f"CREATE SCHEMA {quote(capture)}")
        fingerprint = read_fingerprint(connection, capture)
        cursor.execute(f"CREATE UNLOGGED TABLE {quote(capture)}.alive AS SELECT %s::text AS alive", (fingerprint,))


def _published(connection: Any, schema: str, it: Captured, whole: bool) -> str:
    columns = f" ({it.columns})" if connection.server_version >= COLUMNS_SINCE and not whole else ""
    return f"ONLY {quote(schema)}.{quote(it.table.name)}{columns}"


def read_fingerprint(connection: Any, capture: str) -> str | None:
    """Return what identifies the publication and its tables, or None if there is none."""
    with connection.cursor() as cursor:
        cursor.execute(_FINGERPRINT, (capture,))
        found = cursor.fetchone()
    return None if found is None else str(found[0])


def create_slot(connection: Any, name: str, seconds: float) -> None:
    """Create the slot, which waits for the end of all transactions of the server that have written.

    Raise the driver's `QueryCanceled` if they do not end within *seconds*; then there is no slot.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('lock_timeout', '0', true), set_config('statement_timeout', %s, true)",
            (f"{max(int(seconds * 1000), 1)}ms",),
        )
        cursor.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
    connection.commit()


def log_running(connection: Any, name: str) -> None:
    """Have the server log which transactions run: only behind such a record a slot begins to read its log anew.

    By itself it does so every 15 seconds; what it has written since would be read again while writers wait. Without the
    right to ask for it, the beginning of another slot has the same effect, if there is room for one.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(has_function_privilege(to_regprocedure('pg_log_standby_snapshot()'), 'EXECUTE'), false)"
        )
        try:
            if cursor.fetchone()[0]:
                cursor.execute("SELECT pg_log_standby_snapshot()")
            else:
                cursor.execute(f"SET LOCAL statement_timeout = {LOGGED_WITHIN}")
                cursor.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput', true)", (f"{name[:61]}_t",))
                cursor.execute("SELECT pg_drop_replication_slot(%s)", (f"{name[:61]}_t",))
            connection.commit()
        except psycopg2.Error as error:
            log.debug("the running transactions are not logged: %s", error)
            connection.rollback()


def trouble(connection: Any, capture: str) -> str | None:
    """Return what keeps the slot and its publication from having told everything, or None."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{quote(capture)}.alive",))
        if not cursor.fetchone()[0]:
            return f"schema {capture} is gone"
        cursor.execute(f"SELECT min(alive) FROM {quote(capture)}.alive")
        (fingerprint,) = cursor.fetchone()
        name = slot_name(connection, capture)
        cursor.execute(
            "SELECT coalesce(wal_status, 'lost') = 'lost' FROM pg_replication_slots WHERE slot_name = %s "
            "AND database = current_database() AND plugin = 'pgoutput'",
            (name,),
        )
        slot = cursor.fetchone()
    if fingerprint is None:
        return "the server has crashed since the move began"
    if slot is None:
        return f"replication slot {name} is gone"
    if slot[0]:
        return f"replication slot {name} has lost its place in the log (max_slot_wal_keep_size)"
    if read_fingerprint(connection, capture) != fingerprint:
        return f"publication {capture} was dropped or changed"
    return None


def drop_stream(connection: Any, capture: str) -> None:
    """Drop the slot and the publication that belong to a schema of that name, if there are any; the latter in the
    connection's transaction. Raise the driver's errors."""
    name = slot_name(connection, capture)
    with connection.cursor() as cursor:
        cursor.execute(_LEFT, (name,))
        if cursor.fetchone() is not None:
            cursor.execute("SELECT pg_drop_replication_slot(%s)", (name,))
        cursor.execute(f"DROP PUBLICATION IF EXISTS {quote(capture)}")
