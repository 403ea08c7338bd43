"""What a schema consists of, as comparable facts: the schemas of two partitions have the same ones, or have drifted."""

from __future__ import annotations

from typing import Any, NamedTuple


class Feature(NamedTuple):
    """One fact: an object of a table, or a view, and its definition without the schema's name."""

    kind: str
    table: str
    name: str
    definition: str


def _comment(catalog: str, oid: str, column: str = "0") -> str:
    return (
        "(SELECT 'COMMENT ' || quote_literal(d.description) FROM pg_description d "
        f"WHERE d.classoid = '{catalog}'::regclass AND d.objoid = {oid} AND d.objsubid = {column})"
    )


# Names that are on the search path are printed without their schema.
_FEATURES = f"""
WITH t AS (
    SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'f', 'm')
    AND NOT starts_with(c.relname::text, 'shardpool_')
)
SELECT 'table', t.relname, '', concat_ws(' ', t.relkind, t.relpersistence, t.relreplident, t.reloptions,
       CASE WHEN t.relrowsecurity THEN 'ROW SECURITY' END, CASE WHEN t.relforcerowsecurity THEN 'FORCED' END,
       (SELECT string_agg(concat_ws(' ', CASE WHEN i.indisreplident THEN 'IDENTITY' END,
                          CASE WHEN i.indisclustered THEN 'CLUSTER' END, i.indexrelid::regclass), ' ')
        FROM pg_index i WHERE i.indrelid = t.oid AND (i.indisreplident OR i.indisclustered)),
       {_comment("pg_class", "t.oid")}) FROM t
UNION ALL
SELECT 'column', t.relname, a.attname, concat_ws(' ', '#' || row_number() OVER (PARTITION BY t.oid ORDER BY a.attnum),
       format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'NOT NULL' END,
       CASE WHEN a.attcollation <> y.typcollation THEN 'COLLATE ' || o.collname END,
       CASE WHEN a.attgenerated <> '' THEN 'GENERATED ' || a.attgenerated::text END,
       'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid),
       CASE WHEN a.attstorage <> y.typstorage THEN 'STORAGE ' || a.attstorage::text END,
       CASE WHEN a.attcompression <> '' THEN 'COMPRESSION ' || a.attcompression::text END,
       'STATISTICS ' || nullif(a.attstattarget, -1), a.attoptions, {_comment("pg_class", "t.oid", "a.attnum")})
FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type y ON y.oid = a.atttypid LEFT JOIN pg_collation o ON o.oid = a.attcollation
LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (t.oid, a.attnum)
UNION ALL
SELECT CASE k.contype WHEN 'f' THEN 'foreign key' WHEN 'p' THEN 'primary key' ELSE 'constraint' END,
       t.relname, k.conname, concat_ws(' ', {_comment("pg_constraint", "k.oid")},
       {_comment("pg_class", "CASE WHEN k.contype <> 'f' THEN k.conindid END")}, pg_get_constraintdef(k.oid, true))
FROM t JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype IN ('c', 'f', 'p', 'u', 'x')
UNION ALL
SELECT 'index', t.relname, x.relname, concat_ws(' ', pg_get_indexdef(x.oid, 0, true), x.reloptions,
       CASE WHEN NOT i.indisvalid THEN 'INVALID' END, {_comment("pg_class", "x.oid")})
FROM t JOIN pg_index i ON i.indrelid = t.oid JOIN pg_class x ON x.oid = i.indexrelid
WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = t.oid
                  AND k.contype IN ('p', 'u', 'x'))
UNION ALL
SELECT 'trigger', t.relname, g.tgname, concat_ws(' ', pg_get_triggerdef(g.oid, true), g.tgenabled,
       {_comment("pg_trigger", "g.oid")})
FROM t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
WHERE g.tgname !~ '^shardpool_capture'
UNION ALL
SELECT 'rule', t.relname, w.rulename, concat_ws(' ', pg_get_ruledef(w.oid, true), w.ev_enabled,
       {_comment("pg_rewrite", "w.oid")})
FROM t JOIN pg_rewrite w ON w.ev_class = t.oid AND w.rulename <> '_RETURN'
UNION ALL
SELECT 'policy', t.relname, l.polname, concat_ws(' ', l.polcmd, l.polpermissive,
       (SELECT string_agg(CASE r WHEN 0 THEN 'public' ELSE pg_get_userbyid(r) END, ',' ORDER BY pg_get_userbyid(r))
        FROM unnest(l.polroles) r),
       'USING ' || pg_get_expr(l.polqual, l.polrelid, true), 'CHECK ' || pg_get_expr(l.polwithcheck, l.polrelid, true),
       {_comment("pg_policy", "l.oid")})
FROM t JOIN pg_policy l ON l.polrelid = t.oid
UNION ALL
SELECT 'statistics', t.relname, e.stxname, concat_ws(' ', e.stxkind::text, pg_get_statisticsobjdef_columns(e.oid),
       {_comment("pg_statistic_ext", "e.oid")})
FROM t JOIN pg_statistic_ext e ON e.stxrelid = t.oid
UNION ALL
SELECT 'view', c.relname, c.relname, concat_ws(' ', c.reloptions, pg_get_viewdef(c.oid),
       {_comment("pg_class", "c.oid")},
       (SELECT string_agg(concat_ws(' ', 'COMMENT', d.objsubid, quote_literal(d.description)), ' ' ORDER BY d.objsubid)
        FROM pg_description d WHERE d.classoid = 'pg_class'::regclass AND d.objoid = c.oid AND d.objsubid > 0))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s AND c.relkind = 'v'
"""


def read_features(cursor: Any, schema: str) -> frozenset[Feature]:
    """Return the facts about *schema*. The search path must begin with it."""
    cursor.execute(_FEATURES, {"schema": schema})
    return frozenset(Feature(*row) for row in cursor.fetchall())
