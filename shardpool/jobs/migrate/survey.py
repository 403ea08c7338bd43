"""What an existing database has: its tables, how large they are, what they promise, and what cannot be taken along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shardpool.ddl.introspect import read_columns
from shardpool.jobs.constraints import Constraints, constraints_in
from shardpool.jobs.migrate.left_out import LeftOut, left_out
from shardpool.topology.names import quote
from shardpool.topology.tables import Table

_SIZES = """
SELECT c.relname, pg_total_relation_size(c.oid), greatest(c.reltuples, 0)::bigint
FROM pg_class c WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r'
"""
_EXTRAS = """
SELECT c.relname, a.attname, coalesce(pg_get_expr(d.adbin, d.adrelid, true), ''), a.attidentity <> ''
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
  AND (d.oid IS NOT NULL OR a.attidentity <> '')
"""
_CONSTRAINTS = """
SELECT c.relname, k.conname, k.contype::text, pg_get_constraintdef(k.oid, true)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE c.relnamespace = %s::regnamespace AND k.contype IN ('p', 'u', 'c', 'f', 'x') ORDER BY 1, 2
"""
_INDEXES = """
SELECT c.relname, pg_get_indexdef(i.indexrelid, 0, true)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r'
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid) ORDER BY 1, 2
"""
_RELATED = """
SELECT DISTINCT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid IN (i.inhrelid, i.inhparent)
WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r'
"""
#: In the order in which they were made, as one may be made of another.
_TYPES = """
SELECT CASE t.typtype
WHEN 'e' THEN format('CREATE TYPE %%I AS ENUM (%%s)', t.typname,
    (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid))
WHEN 'c' THEN format('CREATE TYPE %%I AS (%%s)', t.typname, (
    SELECT string_agg(concat_ws(' ', quote_ident(attname), format_type(atttypid, atttypmod),
        CASE WHEN attcollation <> own.typcollation THEN 'COLLATE ' || attcollation::regcollation END),
        ', ' ORDER BY attnum)
    FROM pg_attribute JOIN pg_type own ON own.oid = atttypid
    WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped))
ELSE concat_ws(' ', format('CREATE DOMAIN %%I AS %%s', t.typname, format_type(t.typbasetype, t.typtypmod)),
    CASE WHEN t.typcollation <> base.typcollation THEN 'COLLATE ' || t.typcollation::regcollation END,
    'DEFAULT ' || t.typdefault, CASE WHEN t.typnotnull THEN 'NOT NULL' END,
    (SELECT string_agg(format('CONSTRAINT %%I %%s', conname, pg_get_constraintdef(oid, true)), ' ' ORDER BY conname)
     FROM pg_constraint WHERE contypid = t.oid AND contype = 'c')) END
FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid LEFT JOIN pg_type base ON base.oid = t.typbasetype
WHERE t.typnamespace = %s::regnamespace AND (t.typtype IN ('e', 'd') OR c.relkind = 'c')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = t.oid AND d.deptype = 'e') ORDER BY t.oid
"""


@dataclass(frozen=True)
class Constraint:
    """A constraint as SQL; `kind` as in pg_constraint: p, u, c, f, x."""

    table: str
    name: str
    kind: str
    text: str


@dataclass(frozen=True)
class Survey:
    """A database's schema. `defaults` and `counted` (serial or identity) are by (table, column)."""

    tables: Mapping[str, Table]
    bytes: Mapping[str, int]
    rows: Mapping[str, int]
    promises: Constraints
    constraints: Sequence[Constraint]
    indexes: Sequence[tuple[str, str]]
    defaults: Mapping[tuple[str, str], str]
    counted: frozenset[tuple[str, str]]
    #: Of these, identity columns, which no UPDATE may set.
    identities: frozenset[tuple[str, str]]
    #: Statements that make enums, domains and composite types.
    types: Sequence[str]
    others: Sequence[LeftOut]
    #: Tables that inherit from others, are inherited from, or are parts of a partitioned one.
    related: frozenset[str]


def survey(cursor: Any, schema: str) -> Survey:
    """Read it all. The session's search path begins with *schema*, so that names are printed without it."""
    name = quote(schema)

    def ask(query: str) -> list[Any]:
        cursor.execute(query, [name] * query.count("%s::"))
        return list(cursor.fetchall())

    sizes = ask(_SIZES)
    extras = ask(_EXTRAS)
    counted = {(table, column) for table, column, default, identity in extras if identity or "nextval(" in default}
    return Survey(
        tables=read_columns(cursor, schema),
        bytes={table: int(size) for table, size, _ in sizes},
        rows={table: int(rows) for table, _, rows in sizes},
        promises=constraints_in(cursor, [name]),
        constraints=[Constraint(*row) for row in ask(_CONSTRAINTS)],
        indexes=[(table, text) for table, text in ask(_INDEXES)],
        defaults={(table, column): text for table, column, text, _ in extras if (table, column) not in counted},
        counted=frozenset(counted),
        identities=frozenset((table, column) for table, column, _, identity in extras if identity),
        types=[statement for (statement,) in ask(_TYPES)],
        others=left_out(cursor, schema),
        related=frozenset(table for (table,) in ask(_RELATED)),
    )
