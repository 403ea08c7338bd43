"""The DDL of a keyspace that takes a database's tables: what rows need, what finds them, what they must satisfy."""

from __future__ import annotations

from collections.abc import Collection

from shardpool.jobs.migrate.survey import Survey
from shardpool.topology.names import quote
from shardpool.topology.tables import Column


def tables_ddl(found: Survey, taken: Collection[str]) -> str:
    """Return types and tables with checks. Serial and identity columns become plain ones."""
    statements = list(found.types)
    for name in sorted(taken):
        parts = [_column(found, name, column) for column in found.tables[name].columns]
        parts += [
            f"CONSTRAINT {quote(it.name)} {it.text}" for it in found.constraints if it.table == name and it.kind == "c"
        ]
        statements.append(f"CREATE TABLE {quote(name)} ({', '.join(parts)})")
    return ";\n".join(statements)


def primary_keys_ddl(found: Survey, taken: Collection[str]) -> str:
    """Return the primary keys, by which changes are followed. To build an index of rows that are there is quicker."""
    return ";\n".join(_added(found, taken, "p"))


def indexes_ddl(found: Survey, taken: Collection[str]) -> str:
    """Return indexes and unique constraints."""
    return ";\n".join(_added(found, taken, "ux") + [text for table, text in found.indexes if table in taken])


def foreign_keys_ddl(found: Survey, taken: Collection[str]) -> str:
    """Return the foreign keys."""
    return ";\n".join(_added(found, taken, "f"))


def _added(found: Survey, taken: Collection[str], kinds: str) -> list[str]:
    return [
        f"ALTER TABLE {quote(it.table)} ADD CONSTRAINT {quote(it.name)} {it.text}"
        for it in found.constraints
        if it.table in taken and it.kind in kinds
    ]


def _column(found: Survey, table: str, column: Column) -> str:
    words = [quote(column.name), column.type]
    if column.collation:
        words.append(f"COLLATE {column.collation}")
    default = found.defaults.get((table, column.name))
    if default is not None:
        words.append(f"GENERATED ALWAYS AS ({default}) STORED" if column.generated else f"DEFAULT {default}")
    if column.not_null:
        words.append("NOT NULL")
    return " ".join(words)
