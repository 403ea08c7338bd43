"""Temporary tables of one query: their names, columns, and what makes them fit for use, as SQL.

Texts are for statements with parameters, where psycopg2 wants percent signs doubled; `plain` takes that back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardpool.planner.plan import Relation, Stage
from shardpool.topology.names import quote
from shardpool.topology.tables import Column

#: Tables with fewer rows are not analysed: any plan will do.
ANALYSE_ROWS = 1000
#: Tables with fewer rows are not indexed.
INDEX_ROWS = 100
#: Rows that are sampled are 300 times this (PostgreSQL's default is 100): temporary tables live for one query.
STATISTICS_TARGET = 10

_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod),
       CASE WHEN a.attcollation <> t.typcollation THEN format('%%I.%%I', n.nspname, o.collname) END
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation o ON o.oid = a.attcollation
LEFT JOIN pg_namespace n ON n.oid = o.collnamespace
WHERE a.attrelid = %s::regclass AND a.attnum > 0 ORDER BY a.attnum
"""


def columns_of(connection: Any, name: str) -> list[Column]:
    """Return the columns of a temporary table, for making it on other shards."""
    with connection.cursor() as cursor:
        cursor.execute(_COLUMNS, (plain(temporary(name)),))
        return [Column(name, sql_type, collation=collation or "") for name, sql_type, collation in cursor.fetchall()]


def finishing(stage: Stage, rows: int) -> list[str]:
    """What makes a filled table fit for use. A primary key is needed by the statement, the rest pays with many rows."""
    table = temporary(stage.name)
    found = []
    if isinstance(stage, Relation):
        if stage.primary_key:
            found.append(f"ALTER TABLE {table} ADD PRIMARY KEY ({_column_list(stage.primary_key)})")
        if stage.not_null:
            changes = ", ".join(f"ALTER {text(quote(name))} SET NOT NULL" for name in stage.not_null)
            found.append(f"ALTER TABLE {table} {changes}")
        if rows >= INDEX_ROWS:
            found += [f"CREATE INDEX ON {table} ({_column_list(columns)})" for columns in stage.indexes]
    if rows >= ANALYSE_ROWS or (rows and stage.spread):
        found += [f"SET LOCAL default_statistics_target = {STATISTICS_TARGET}", f"ANALYZE {table}"]
    return found


def definition_of(columns: Sequence[Column]) -> str:
    return text(
        ", ".join(
            f"{quote(column.name)} {column.type}" + (f" COLLATE {column.collation}" if column.collation else "")
            for column in columns
        )
    )


def _column_list(names: tuple[str, ...]) -> str:
    return text(", ".join(map(quote, names)))


def column_names(count: int) -> str:
    return f" ({', '.join(f'c{number}' for number in range(1, count + 1))})" if count else ""


def temporary(name: str) -> str:
    return text(f"pg_temp.{quote(name)}")


def text(sql: str) -> str:
    """Return *sql* for a statement with parameters, where psycopg2 wants percent signs doubled."""
    return sql.replace("%", "%%")


def plain(sql: str) -> str:
    """Return *sql* for a statement without parameters."""
    return sql.replace("%%", "%")
