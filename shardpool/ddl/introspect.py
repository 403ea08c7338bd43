"""Reading tables from a server's own catalogs: what the router is told about them, and whether they may be sharded.

The rules judge a script by its words; here the server says what became of it. Both must agree that a key can be a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from shardpool.ddl.keys import check_key, check_unique
from shardpool.ddl.refusals import refuse
from shardpool.topology.names import quote
from shardpool.topology.tables import Column, Sharded, Table, TableKind

_COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated <> '',
       CASE WHEN a.attcollation <> t.typcollation
            THEN quote_ident(l.nspname) || '.' || quote_ident(o.collname) ELSE '' END
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation o ON o.oid = a.attcollation
LEFT JOIN pg_namespace l ON l.oid = o.collnamespace
WHERE n.nspname = %s AND NOT starts_with(c.relname::text, 'shardpool_') AND c.relkind = 'r'
ORDER BY c.relname, a.attnum
"""

_NONDETERMINISTIC = """
SELECT a.attname, o.collname
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_collation o ON o.oid = a.attcollation AND NOT o.collisdeterministic
WHERE n.nspname = %s AND c.relname = %s AND a.attname = ANY(%s)
"""

# The columns of each index that must be unique, or that excludes: only those compared as they are, and with "=".
_UNIQUE = """
SELECT c.relname, x.relname, i.indisprimary, ARRAY(
    SELECT a.attname::text
    FROM unnest(i.indkey::int2[], i.indcollation::oid[], k.conexclop) WITH ORDINALITY e(number, collation_id, op, place)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = e.number
    LEFT JOIN pg_operator o ON o.oid = e.op
    WHERE e.place <= i.indnkeyatts AND e.collation_id = a.attcollation AND coalesce(o.oprname, '=') = '='
    ORDER BY e.place)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_index i ON i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion)
JOIN pg_class x ON x.oid = i.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x')
WHERE n.nspname = %s AND c.relname = ANY(%s)
ORDER BY 1, 2
"""

_PRIMARY_KEYS = """
SELECT c.relname, ARRAY(
    SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY e(number, place)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = e.number ORDER BY e.place)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND k.contype = 'p'
"""

_FUNCTIONS = """
SELECT DISTINCT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
"""

_BEHIND = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%s) AND c.relname = ANY(%s) ORDER BY 1, 2
"""


def read_columns(cursor: Any, schema: str) -> dict[str, Table]:
    """Return all tables of *schema* as the server has them, with columns and primary keys only."""
    cursor.execute(_COLUMNS, (schema,))
    columns: dict[str, list[Column]] = {}
    for table, name, sql_type, not_null, generated, collation in cursor.fetchall():
        columns.setdefault(table, []).append(Column(name, sql_type, not_null, collation, generated))
    cursor.execute(_PRIMARY_KEYS, (schema,))
    primary_keys = {table: tuple(found) for table, found in cursor.fetchall()}
    return {name: Table(name, tuple(found), primary_keys.get(name, ())) for name, found in sorted(columns.items())}


def read_tables(cursor: Any, schema: str, kinds: Mapping[str, TableKind]) -> dict[str, Table]:
    """Return the tables *kinds* of *schema* as the router needs them.

    Raise `SchemaError` if one has no columns, or a sharded one a key that cannot be one, or something unique that does
    not contain it.
    """
    found = read_columns(cursor, schema)
    tables = {}
    for name, kind in sorted(kinds.items()):
        if name not in found:
            raise refuse("SP273", table=name)
        table = found[name]
        if isinstance(kind, Sharded):
            table = replace(table, key=kind.columns, unique=tuple(sorted(kind.unique.items())))
        tables[name] = replace(table, key_types=check_key(table, line=1))
        _check_collations(cursor, schema, table)
    _check_unique(cursor, schema, tables)
    return tables


def _check_collations(cursor: Any, schema: str, table: Table) -> None:
    cursor.execute(_NONDETERMINISTIC, (schema, table.name, list(table.key)))
    for column, collation in cursor.fetchall():
        raise refuse("SP234", table=table.name, column=column, got=collation)


def _check_unique(cursor: Any, schema: str, tables: Mapping[str, Table]) -> None:
    cursor.execute(_UNIQUE, (schema, sorted(tables)))
    for table, index, primary, columns in cursor.fetchall():
        what = f"{'PRIMARY KEY' if primary else 'unique index'} {index!r}"
        check_unique(tables[table], what, columns)


def read_functions(cursor: Any) -> frozenset[str]:
    """Return the names of all functions that are not PostgreSQL's own."""
    cursor.execute(_FUNCTIONS)
    return frozenset(name for (name,) in cursor.fetchall())


def find_behind(cursor: Any, keyspace: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return (schema, name) of relations that a statement would find if its partition has moved away.

    The name of a sharded table must lead nowhere then: the error is what keeps a stale router from lying.
    """
    cursor.execute(_BEHIND, ([keyspace, "public"], list(names)))
    return [(schema, name) for schema, name in cursor.fetchall()]


def search_path(keyspace: str, schema: str | None = None) -> str:
    """Return the statement that sets the path of a partition's schema, or that of shared objects."""
    schemas = [quote(it) for it in (schema, keyspace) if it]
    return f"SET LOCAL search_path TO {', '.join(schemas)}, public"
