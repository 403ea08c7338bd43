"""Which columns tell the rows of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shardpool.moves.layout import TableLayout, read_layout
from shardpool.moves.move import Move
from shardpool.topology.names import quote, unquote


@dataclass(frozen=True)
class Captured:
    """A table whose writes are noted: the columns that tell its rows, quoted, and a number of its own.

    The key is the primary key, or, for a table without one, the partition key, which then stands for all rows that
    have it.
    """

    table: TableLayout
    key: tuple[str, ...]
    number: int

    @property
    def names(self) -> tuple[str, ...]:
        """The key's columns, not quoted."""
        return tuple(map(unquote, self.key))

    @property
    def columns(self) -> str:
        return ", ".join(self.key)

    def log(self, schema: str) -> str:
        """The table in which triggers note keys."""
        return f"{quote(schema)}.log_{self.number}"

    @property
    def noted(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The columns of that table: the key before the write, and after it; NULL where there was no row."""
        numbers = range(len(self.key))
        return tuple(f"old_{number}" for number in numbers), tuple(f"new_{number}" for number in numbers)

    @property
    def keys(self) -> str:
        """The temporary table of the keys that a round carries over."""
        return f"pg_temp.shardpool_keys_{self.number}"

    @property
    def rows(self) -> str:
        """The temporary table of their rows."""
        return f"pg_temp.shardpool_rows_{self.number}"


def captured_tables(move: Move, connection: Any, schema: str) -> tuple[Captured, ...]:
    """Return the tables of *schema* with their keys, those that others refer to first."""
    tables = read_layout(connection, schema)
    by_name = sorted(table.name for table in tables)
    known = move.router.topology.tables
    return tuple(
        Captured(
            table,
            table.primary_key or tuple(quote(column) for column in known[table.name].key),
            by_name.index(table.name),
        )
        for table in tables
    )
