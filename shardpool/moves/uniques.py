"""Primary keys and unique constraints of a table that is copied: indexes are built faster over all rows at once.

They are dropped and created again in the transaction that copies the rows, so nobody ever sees the table without them.
One that has more to it than its definition says stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from shardpool.moves.layout import TableLayout
from shardpool.moves.parallel import Work, together
from shardpool.topology.names import literal, quote

_UNIQUES = """
SELECT k.conname, pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint')
FROM pg_constraint k JOIN pg_index i ON i.indexrelid = k.conindid JOIN pg_class x ON x.oid = i.indexrelid
WHERE k.conrelid = %s::regclass AND k.contype IN ('p', 'u') AND NOT i.indisclustered AND NOT i.indisreplident
AND x.reloptions IS NULL AND x.reltablespace = 0 AND obj_description(x.oid, 'pg_class') IS NULL
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.deptype <> 'i' AND (
    (d.refclassid = 'pg_constraint'::regclass AND d.refobjid = k.oid)
    OR (d.refclassid = 'pg_class'::regclass AND d.refobjid = x.oid)))
ORDER BY k.oid
"""


@contextmanager
def without_uniques(
    targets: Sequence[tuple[Any, str]], table: TableLayout, meanwhile: Callable[[], object]
) -> Iterator[None]:
    """Let the block fill *table* in these (connection, schema) without its unique constraints, which are built then.

    The connections' transactions are not ended. *meanwhile* is called now and then while indexes are built.
    """
    name = quote(table.name)
    works = [Work(connection, _rebuild(connection, f"{quote(schema)}.{name}")) for connection, schema in targets]
    yield
    together(works, meanwhile)


def _rebuild(connection: Any, table: str) -> Callable[[], None]:
    """Drop the unique constraints of a table; return what creates them again."""
    statements = []
    with connection.cursor() as cursor:
        cursor.execute(_UNIQUES, (table,))
        for name, definition, comment in cursor.fetchall():
            cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {quote(name)}")
            statements.append(f"ALTER TABLE {table} ADD CONSTRAINT {quote(name)} {definition}")
            if comment is not None:
                statements.append(f"COMMENT ON CONSTRAINT {quote(name)} ON {table} IS {literal(comment)}")

    def run() -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return run
