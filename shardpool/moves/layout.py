"""What a partition's schema consists of, as the server says: tables, their columns, and which refer to which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from shardpool.ddl.introspect import search_path
from shardpool.topology.names import quote

# A type without binary functions, or an array or domain of one, makes its table travel as text. Types that are listed
# second have hashes that depend on every bit of a value; of the other basic ones those are equal of values that compare
# as equal, or fold 64 bits into 32.
_TABLES = """
SELECT c.relname,
       array_agg(quote_ident(a.attname) ORDER BY a.attnum) FILTER (WHERE a.attgenerated = ''),
       array_agg(quote_ident(a.attname) ORDER BY a.attnum) FILTER (WHERE a.attnum > 0),
       coalesce(bool_and(t.typsend <> 0 AND t.typreceive <> 0 AND coalesce(e.typsend <> 0 AND e.typreceive <> 0, true)),
                true),
       pg_table_size(c.oid), pg_total_relation_size(c.oid), greatest(c.reltuples, 0)::bigint,
       (SELECT array_agg(quote_ident(k.attname) ORDER BY k.attnum) FROM pg_index i
        JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = ANY(i.indkey)
        WHERE i.indrelid = c.oid AND i.indisprimary),
       coalesce(bool_and(a.atttypid = ANY('{bool,bytea,int8,int2,int4,text,oid,json,float4,float8,bpchar,
                varchar,date,time,timestamp,timestamptz,interval,timetz,bit,varbit,numeric,uuid,jsonb,inet,cidr,
                macaddr}'::regtype[])), true),
       array_agg(CASE WHEN a.atttypid = ANY('{bool,bytea,int2,int4,text,oid,varchar,date,uuid}'::regtype[])
                      AND coalesce(l.collisdeterministic, true) THEN quote_ident(a.attname)
                      ELSE format('pg_catalog.%%I(%%I)', s.proname, a.attname) END ORDER BY a.attnum)
       FILTER (WHERE a.attnum > 0)
FROM pg_class c
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_proc s ON s.oid = t.typsend
LEFT JOIN pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_type e ON e.oid = nullif(CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.typelem END, 0)
WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind = 'r'
GROUP BY c.oid ORDER BY c.relname
"""

_REFERENCES = """
SELECT c.relname, r.relname FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class r ON r.oid = k.confrelid
WHERE k.contype = 'f' AND c.relnamespace = to_regnamespace(%s) AND r.relnamespace = c.relnamespace AND c.oid <> r.oid
"""


Names = Sequence[str] | None


@dataclass(frozen=True)
class TableLayout:
    """A table of a partition. Columns are quoted; `insertable` are those that take a value.

    `heap` is the size of its rows in bytes, `total` includes indexes; `estimated_rows` is the planner's guess;
    `primary_key` is empty if there is none. `hashed` is what a row's hash is taken of, if that means the same on every
    server: expressions of its columns; else it is empty.
    """

    name: str
    insertable: tuple[str, ...]
    columns: tuple[str, ...]
    binary: bool
    heap: int
    total: int
    estimated_rows: int
    primary_key: tuple[str, ...] = ()
    hashed: tuple[str, ...] = ()


def read_layout(connection: Any, schema: str) -> tuple[TableLayout, ...]:
    """Return the tables of a schema, those that others refer to first."""
    with connection.cursor() as cursor:
        cursor.execute(_TABLES, (quote(schema),))
        tables = {row[0]: _table(*row) for row in cursor.fetchall()}
        cursor.execute(_REFERENCES, (quote(schema),))
        references = cursor.fetchall()
    return tuple(tables[name] for name in parents_first(tables, references))


def parents_first(names: Iterable[str], references: Iterable[tuple[str, str]]) -> Sequence[str]:
    """Order tables so that those referred to come before those that refer; by name where they refer to each other."""
    parents: Mapping[str, set[str]] = {name: set() for name in sorted(names)}
    for child, parent in sorted(references):
        parents[child].add(parent)
    try:
        return tuple(TopologicalSorter(parents).static_order())
    except CycleError:
        return tuple(parents)


def qualified(schema: str, tables: Iterable[TableLayout]) -> str:
    """Return the tables' names, for LOCK, TRUNCATE and the like."""
    return ", ".join(f"{quote(schema)}.{quote(table.name)}" for table in tables)


def look_into(connection: Any, keyspace: str, schema: str) -> None:
    """Let names in triggers, constraints and functions mean those of *schema*, until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute(search_path(keyspace, schema))


def schemas_of(connection: Any, names: Sequence[str]) -> set[str]:
    """Return which of the schemas *names* exist."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nspname FROM pg_namespace WHERE nspname = ANY(%s)", (list(names),))
        return {name for (name,) in cursor.fetchall()}


def _table(
    name: str,
    insertable: Names,
    columns: Names,
    binary: bool,
    heap: int,
    total: int,
    rows: int,
    primary_key: Names,
    basic: bool,
    hashed: Names,
) -> TableLayout:
    lists = tuple(insertable or ()), tuple(columns or ())
    key, hashes = tuple(primary_key or ()), tuple(hashed or ()) if basic else ()
    return TableLayout(name, *lists, binary, heap, total, rows, key, hashes)
