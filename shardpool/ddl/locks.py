"""Locking tables at once, by a statement that gives up before PostgreSQL looks for a deadlock.

A transaction that has written one table and waits for another that is locked already is in a deadlock with who locks
them. PostgreSQL would take either for its victim: this one gives way, and tries again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from shardpool.ddl.log import Recorded
from shardpool.ddl.statement import DdlStatement

#: The length of a try, as a share of the server's deadlock_timeout: first, second, third, then again. The third is
#: longer, because autovacuum leaves only when the deadlock check finds it in the way.
PATIENCE = (0.8, 0.8, 1.6)

# The whole statement is limited, not the wait for each table.
_SET_TIMEOUT = """
SELECT set_config('statement_timeout',
    (extract(epoch FROM current_setting('deadlock_timeout')::interval) * 1000 * %s)::int::text, true)
"""

_TABLES = """
SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname = ANY(%s) AND c.relname = ANY(%s) ORDER BY c.oid
"""


def lock_at_once(cursor: Any, tables: Sequence[str], mode: str, patience: float) -> None:
    """Lock *tables* (quoted) in this order, in the cursor's transaction. Raise psycopg2's errors: `QueryCanceled`."""
    cursor.execute(_SET_TIMEOUT, (patience,))
    if tables:
        cursor.execute(f"LOCK TABLE {', '.join(tables)} IN {mode} MODE")
    cursor.execute("SET LOCAL statement_timeout = 0")


def tables_in(cursor: Any, schemas: Collection[str], names: Collection[str]) -> list[str]:
    """Return the tables of these names in *schemas*, quoted, the oldest first: parents before children."""
    cursor.execute(_TABLES, (list(schemas), list(names)))
    return [name for (name,) in cursor.fetchall()]


def mode_for(batch: Sequence[Recorded]) -> str | None:
    """Return the lock that a batch needs on the tables that it is about, or None if these are better locked one by one:
    where indexes are built, readers are not to wait for it, though other statements will make them."""
    effects = [effect for it in batch for effect in it.statement.effects]
    if all(it.verb == "create" for it in effects):
        return "SHARE ROW EXCLUSIVE"
    builds = any(it.verb == "create" and it.what in ("index", "foreign key") for it in effects)
    return None if builds else "ACCESS EXCLUSIVE"


def names_of(statements: Sequence[DdlStatement], scope: str) -> set[str]:
    """Return the names of the tables and views that statements of a scope are about."""
    return set[str]().union(*(it.owners for it in statements if it.scope == scope))
