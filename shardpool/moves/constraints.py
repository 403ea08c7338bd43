"""Foreign keys and triggers of the copy, which must not act while changes are carried over.

What is carried over are states of rows, not the statements that led to them: a trigger would do its work a second time,
and no order of deletes and inserts satisfies all foreign keys with their actions, although the result does. Only a
superuser may make PostgreSQL overlook foreign keys; so they are created once with the indexes, which proves them, and
then dropped, and created again before the switch as NOT VALID, which takes no scan. After the switch they are validated
while everybody works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shardpool.topology.names import literal, quote

#: As plain values: foreign keys as (table, name, definition, comment), triggers as (table, name, state).
Kept = Mapping[str, Sequence[Sequence[str]]]

_FOREIGN_KEYS = """
SELECT c.relname, k.conname, pg_get_constraintdef(k.oid), coalesce(obj_description(k.oid, 'pg_constraint'), '')
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE k.contype = 'f' AND c.relnamespace = to_regnamespace(%s) ORDER BY k.oid
"""
_TRIGGERS = """
SELECT c.relname, g.tgname, g.tgenabled::text FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
WHERE NOT g.tgisinternal AND g.tgname !~ '^shardpool_capture' AND c.relnamespace = to_regnamespace(%s) ORDER BY g.oid
"""
_ENABLE = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}


def read_kept(connection: Any, schema: str) -> Kept:
    """Return the foreign keys and triggers of *schema*, which is first on the search path."""
    with connection.cursor() as cursor:
        cursor.execute(_FOREIGN_KEYS, (quote(schema),))
        foreign_keys = cursor.fetchall()
        cursor.execute(_TRIGGERS, (quote(schema),))
        return {"foreign_keys": foreign_keys, "triggers": cursor.fetchall()}


def take_off(connection: Any, schema: str) -> None:
    """Drop foreign keys and disable triggers; those that are off already stay so."""
    found = read_kept(connection, schema)
    with connection.cursor() as cursor:
        for table, name, *_ in found["foreign_keys"]:
            cursor.execute(f"ALTER TABLE {quote(schema)}.{quote(table)} DROP CONSTRAINT {quote(name)}")
        for table, name, state in found["triggers"]:
            if state != "D":
                cursor.execute(f"ALTER TABLE {quote(schema)}.{quote(table)} DISABLE TRIGGER {quote(name)}")


def put_on(connection: Any, schema: str, kept: Kept) -> None:
    """Create the foreign keys, not yet validated, and enable the triggers. *schema* is first on the search path."""
    statements = []
    for table, name, definition, comment in kept["foreign_keys"]:
        unproven = "" if definition.endswith(" NOT VALID") else " NOT VALID"
        target = f"{quote(schema)}.{quote(table)}"
        statements.append(f"ALTER TABLE {target} ADD CONSTRAINT {quote(name)} {definition}{unproven}")
        if comment:
            statements.append(f"COMMENT ON CONSTRAINT {quote(name)} ON {target} IS {literal(comment)}")
    for table, name, state in kept["triggers"]:
        if state in _ENABLE:
            statements.append(f"ALTER TABLE {quote(schema)}.{quote(table)} {_ENABLE[state]} TRIGGER {quote(name)}")
    if statements:
        with connection.cursor() as cursor:
            cursor.execute("; ".join(statements))


def validate_foreign_keys(connection: Any, schema: str, kept: Kept) -> None:
    """Validate those that were; each in a transaction of its own, which holds nobody up."""
    for table, name, definition, _ in kept["foreign_keys"]:
        if definition.endswith(" NOT VALID"):
            continue
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {quote(schema)}.{quote(table)} VALIDATE CONSTRAINT {quote(name)}")
        connection.commit()
