"""A proposal: which tables to split by which key, which to keep whole on every shard, and what stands in the way.

A key is carried from the table where it is the primary key along foreign keys: all that belongs to a customer has the
customer's id. Of all candidates the one is proposed that takes most bytes along.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from shardpool.jobs.constraints import ForeignKey
from shardpool.jobs.migrate.left_out import LeftOut
from shardpool.jobs.migrate.survey import Survey
from shardpool.topology.key import KEY_TYPES
from shardpool.topology.tables import Sharded, Table, TableKind

#: A table outside a key's reach is proposed as a reference table if it is smaller, in bytes.
REFERENCE_BYTES = 64 << 20


@dataclass(frozen=True)
class TableProposal:
    """What to do with a table: `kind` is sharded, reference, undecided, or skipped by the spec; `obstacles` are to be
    removed before."""

    table: str
    kind: str
    key: str = ""
    bytes: int = 0
    rows: int = 0
    obstacles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """`others` are objects of the database that no import takes along."""

    tables: Mapping[str, TableProposal]
    others: tuple[LeftOut, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return {
            "tables": [vars(self.tables[name]) for name in sorted(self.tables)],
            "not_taken_along": [vars(it) for it in self.others],
        }


def propose(found: Survey, given: Mapping[str, TableKind | None]) -> Proposal:
    """Return the proposal for a database. What is *given* about a table stands; None: it is skipped."""
    carried = max((_carried(found, table) for table in found.tables.values()), key=lambda it: _worth(found, it))
    keys = {name: key for name, key in carried.items() if name not in given}
    keys |= {name: kind.columns[0] for name, kind in given.items() if isinstance(kind, Sharded)}
    tables = {}
    for name, table in found.tables.items():
        key = keys.get(name)
        size = found.bytes.get(name, 0)
        decided = given.get(name)
        if isinstance(decided, Sharded):
            problems = [it for column in decided.columns for it in obstacles_of(found, table, column, keys)]
            kind, key, obstacles = "sharded", ", ".join(decided.columns), tuple(dict.fromkeys(problems))
        elif name in given:
            kind, key, obstacles = "skipped" if decided is None else "reference", "", ()
        elif key is not None:
            kind, obstacles = "sharded", obstacles_of(found, table, key, keys)
        elif size < REFERENCE_BYTES:
            kind, key, obstacles = "reference", "", ()
        else:
            kind, key, obstacles = "undecided", "", ("it has no foreign key to what the others are split by",)
        tables[name] = TableProposal(name, kind, key, size, found.rows.get(name, 0), obstacles)
    return Proposal(tables, tuple(found.others))


def obstacles_of(found: Survey, table: Table, key: str, keys: Mapping[str, str]) -> tuple[str, ...]:
    """Return why *table* cannot be split by *key* as it is, when other tables are split by *keys*."""
    problems = []
    column = table.column(key)
    if column is None:
        return (f"it has no column {key}",)
    if column.base_type not in KEY_TYPES:
        problems.append(f"{key} is {column.type}, which cannot be a partition key")
    if not column.not_null:
        problems.append(f"{key} may be NULL")
    for owner, columns in found.promises.unique:
        if owner == table.name and key not in columns:
            problems.append(f"unique ({', '.join(sorted(columns))}) does not contain {key}{_way(table, columns)}")
    for reference in found.promises.foreign_keys:
        if reference.table == table.name and reference.parent in keys and not _within(reference, key, keys):
            problems.append(f"its foreign key ({', '.join(reference.columns)}) leads to other partitions")
    return tuple(problems)


def _way(table: Table, columns: Collection[str]) -> str:
    """What a column that must be unique by itself can have in a keyspace."""
    found = [it for name in columns if (it := table.column(name)) is not None and it.base_type in KEY_TYPES]
    if len(columns) != 1 or not found:
        return ""
    return f" (drop that, and after the import: shardpool unique add {table.name} {found[0].name})"


def _carried(found: Survey, root: Table) -> dict[str, str]:
    """Return table -> key column, of all tables that have the primary key of *root*, directly or through others."""
    if len(root.primary_key) != 1:
        return {}
    column = root.column(root.primary_key[0])
    if column is None or column.base_type not in KEY_TYPES:
        return {}
    keys = {root.name: column.name}
    changed = True
    while changed:
        changed = False
        for reference in found.promises.foreign_keys:
            parent_key = keys.get(reference.parent)
            if parent_key in reference.parent_columns and reference.table not in keys:
                keys[reference.table] = reference.columns[reference.parent_columns.index(parent_key)]
                changed = True
    return keys


def _worth(found: Survey, keys: Mapping[str, str]) -> tuple[int, int]:
    """Bytes of the tables that could be split as they are, then of all that would be."""
    free = [name for name, key in keys.items() if not obstacles_of(found, found.tables[name], key, keys)]
    return sum(found.bytes.get(name, 0) for name in free), sum(found.bytes.get(name, 0) for name in keys)


def _within(reference: ForeignKey, key: str, keys: Mapping[str, str]) -> bool:
    """Whether a foreign key stays within a partition: it takes the key to the parent's key."""
    pairs = zip(reference.columns, reference.parent_columns, strict=True)
    return (key, keys[reference.parent]) in pairs
