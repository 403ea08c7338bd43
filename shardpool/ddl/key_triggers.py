"""Triggers that would change a row's partition key: the row was sent to the partition of the key that it had.

What a trigger's function does is told by its text alone. Assignments in PL/pgSQL are found; what other languages, or
`NEW := f(NEW)`, make of a row is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from shardpool.ddl.refusals import refuse
from shardpool.topology.tables import Table

_TRIGGERS = """
SELECT c.relname, t.tgname, p.proname, p.prosrc
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND NOT t.tgisinternal
AND t.tgtype & 3 = 3 AND t.tgtype & 20 <> 0
ORDER BY 1, 2
"""  # for each row, before; INSERT or UPDATE

_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
#: NEW.column as the target of an assignment (the other = compares), or of INTO.
_ASSIGNED = (
    r"(?:(?:^|;|\b(?:begin|then|else|loop)\b|>>)\s*{0}\s*:?=|{0}\s*:=|\binto\s+(?:strict\s+)?(?:[^;]*,\s*)?{0}\b)"
)


def check_keys_kept(cursor: Any, schema: str, tables: Mapping[str, Table]) -> None:
    """Raise `SchemaError` if a trigger of a partition's *schema* assigns a partition key of *tables*."""
    cursor.execute(_TRIGGERS, (schema,))
    for relation, trigger, function, body in cursor.fetchall():
        table = tables.get(relation)
        for column in table.key if table is not None else ():
            if assigns(body, column):
                raise refuse("SP271", name=trigger, table=relation, function=function, column=column)


def assigns(body: str, column: str) -> bool:
    """Whether the body of a function assigns to *column* of NEW."""
    new = rf'\bnew\s*\.\s*(?:{re.escape(column)}\b|"{re.escape(column)}")'
    return re.search(_ASSIGNED.format(new), _COMMENTS.sub(" ", body), re.IGNORECASE) is not None
