"""What a database has that no import takes along, and what its owner can do about each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from shardpool.topology.names import quote

_FOUND = """
SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'p' THEN 'partitioned table'
       ELSE 'foreign table' END, c.relname, CASE c.relkind WHEN 'v' THEN
       format('CREATE VIEW %%I AS %%s', c.relname, pg_get_viewdef(c.oid)) ELSE '' END
FROM pg_class c WHERE c.relnamespace = %s::regnamespace AND c.relkind IN ('v', 'm', 'p', 'f')
UNION ALL
SELECT 'trigger', t.tgname || ' on ' || c.relname, pg_get_triggerdef(t.oid, true)
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = %s::regnamespace AND NOT t.tgisinternal AND t.tgname NOT LIKE 'shardpool\\_%%'
UNION ALL
SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'f' THEN 'function' ELSE 'aggregate' END, p.proname,
       CASE WHEN p.prokind = 'f' THEN pg_get_functiondef(p.oid) ELSE '' END
FROM pg_proc p WHERE p.pronamespace = %s::regnamespace
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT 'inherited table', c.relname, '' FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r'
UNION ALL
SELECT 'policy', polname || ' on ' || c.relname, '' FROM pg_policy l JOIN pg_class c ON c.oid = l.polrelid
WHERE c.relnamespace = %s::regnamespace
UNION ALL
SELECT 'rule', r.rulename || ' on ' || r.tablename, r.definition FROM pg_rules r
WHERE quote_ident(r.schemaname)::regnamespace = %s::regnamespace
UNION ALL
SELECT CASE WHEN c.relname ~ '^shardpool_' THEN 'reserved table' ELSE 'empty table' END, c.relname, '' FROM pg_class c
WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r' AND (c.relname ~ '^shardpool_' OR NOT EXISTS
    (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
UNION ALL
SELECT 'sequence', s.sequencename || coalesce(', which stands at ' || s.last_value, ', which was never used'), ''
FROM pg_sequences s WHERE quote_ident(s.schemaname)::regnamespace = %s::regnamespace
ORDER BY 1, 2
"""
#: A function is printed with its schema, always.
_SCHEMA = re.compile(r'^(CREATE OR REPLACE FUNCTION )(?:"(?:[^"]|"")*"|\w+)\.')
_AFTERWARDS = "create it in the keyspace after the import, as it is (shardpool schema apply)"
_ADVICE = {
    "view": _AFTERWARDS,
    "function": "create it in the keyspace after the import, and before what uses it",
    "procedure": "it would see one partition only: do its work in the application",
    "aggregate": "it would see one partition only: write its query without it",
    "trigger": "create it after the import and its function; on a reference table, do its work where rows are written",
    "materialized view": "the keyspace has none: make it a view, or a table that a job fills",
    "partitioned table": "copy its rows into a plain table first: the keyspace divides tables by itself",
    "inherited table": "copy its rows into a plain table first",
    "policy": "it hides rows from nobody in the keyspace: let the application choose what is seen",
    "rule": "it would see one partition only: do its work in the application",
    "reserved table": "rename it first: names that begin with shardpool_ are taken",
    "empty table": "it has no columns: leave it, or give it one",
    "foreign table": "its rows are elsewhere: import them from there, or copy them into a table first",
    "sequence": "new ids come from the application or router.next_id(), whose ids are larger than any counted ones",
}


@dataclass(frozen=True)
class LeftOut:
    """An object as a person would call it, what to do, and the statement that made it, where that helps."""

    what: str
    advice: str
    statement: str = ""


def left_out(cursor: Any, schema: str) -> list[LeftOut]:
    """Read what *schema* has beside tables. The session's search path begins with it: names are printed without it."""
    cursor.execute(_FOUND, [quote(schema)] * _FOUND.count("%s::"))
    return [
        LeftOut(f"{kind} {name}", _ADVICE[kind], _SCHEMA.sub(r"\1", statement, count=1))
        for kind, name, statement in cursor.fetchall()
    ]
