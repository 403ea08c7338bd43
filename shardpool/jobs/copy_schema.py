"""The schema of a keyspace, given to another one by its own recorded statements."""

from __future__ import annotations

from shardpool.ddl.log import Recorded, read_log
from shardpool.errors import JobRefused
from shardpool.jobs.following import change_schema
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.tables import TableKind, Tables

#: Names of what jobs that replicate add to the schema begin with this. It is not copied.
FEED = "feed__"


def copy_schema(source: Router, target: Router) -> None:
    """Give *target* the tables of *source*. Idempotent. Raise `SchemaError`, or `JobRefused` if they differ then."""
    kinds: dict[str, TableKind] = {name: table.kind for name, table in own_tables(source.topology.tables).items()}
    change_schema(target, ";\n".join(statements_of(source)), kinds)
    differing = [name for name in kinds if target.topology.tables.get(name) != source.topology.tables[name]]
    if differing:
        raise JobRefused(
            f"keyspace {target.topology.keyspace!r} has other definitions of {', '.join(sorted(differing))} than "
            f"{source.topology.keyspace!r}: take an empty keyspace"
        )


def own_tables(tables: Tables) -> Tables:
    """Return the tables without those that jobs have added."""
    return {name: table for name, table in tables.items() if not name.startswith(FEED)}


def statements_of(source: Router) -> list[str]:
    """Return the statements that made a keyspace's tables, as their authors wrote them."""
    statements, seen = [], set()
    for recorded in own_log(source):
        statement = recorded.statement
        text = statement.source or statement.text
        # A foreign key within CREATE TABLE was recorded as a part of its own.
        if statement.part == 0 or text not in seen:
            statements.append(text)
        seen.add(text)
    return statements


def own_log(source: Router) -> list[Recorded]:
    """Return the recorded statements, without those of jobs."""
    return [it for it in read_log(source.catalog, "done") if f'"{FEED}' not in it.statement.text]


def check_empty(target: Router, tables: list[str]) -> None:
    """Raise `JobRefused` if a table of *target* has rows."""
    filled = [name for name in tables if target.query(f"SELECT 1 FROM {quote(name)} LIMIT 1").first() is not None]
    if filled:
        raise JobRefused(
            f"keyspace {target.topology.keyspace!r} has rows already, in {', '.join(filled)}: take an empty keyspace, "
            "or truncate its tables"
        )
