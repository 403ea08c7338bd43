"""What the router knows about the tables of a keyspace: enough to route and to plan without asking a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shardpool.topology.key import KeyType


@dataclass(frozen=True)
class Sharded:
    """Declare a table as split over the partitions by *key*: a column name, or a tuple of them for a composite key.

    *unique*: columns that are unique over all partitions -> the table of their reservations, which is sharded by that
    column, and has it and the key of this table as its columns.
    """

    key: str | tuple[str, ...]
    unique: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.key,) if isinstance(self.key, str) else self.key


@dataclass(frozen=True)
class Reference:
    """Declare a table as kept whole on every shard."""


TableKind = Sharded | Reference


@dataclass(frozen=True)
class Column:
    """A column as the server describes it: `type` as `format_type` says, `collation` quoted, or empty by default."""

    name: str
    type: str
    not_null: bool = False
    collation: str = ""
    generated: bool = False

    @property
    def base_type(self) -> str:
        """The type's name without modifier: ``numeric(10,2)`` is ``numeric``."""
        head, _, tail = self.type.partition("(")
        return head + tail.partition(")")[2] if tail else self.type


@dataclass(frozen=True)
class Table:
    """A sharded or a reference table."""

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    key_types: tuple[KeyType, ...] = ()
    #: (column, table of its reservations): the columns that are unique over all partitions.
    unique: tuple[tuple[str, str], ...] = ()
    #: (column, number): those of them that are only being made unique. Writes of rows in partitions from this number on
    #: reserve their values; rows that were there before may have no reservation yet.
    building: tuple[tuple[str, int], ...] = ()

    @property
    def sharded(self) -> bool:
        return bool(self.key)

    @property
    def kind(self) -> TableKind:
        """How it was declared."""
        if not self.sharded:
            return Reference()
        return Sharded(self.key[0] if len(self.key) == 1 else self.key, dict(self.unique))

    @property
    def unique_columns(self) -> Mapping[str, str]:
        """The columns that are unique over all partitions, without those that are only being made so."""
        return {column: name for column, name in self.unique if column not in dict(self.building)}

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    @property
    def insertable(self) -> tuple[str, ...]:
        """Names of the columns that take a value, in order."""
        return tuple(column.name for column in self.columns if not column.generated)


Tables = Mapping[str, Table]


@dataclass(frozen=True)
class View:
    """A view: a sharded one is in every partition and reads its rows, any other is on every shard.

    `definition` is the SELECT as a server prints it, with the keyspace's name before each of its tables and views.
    """

    name: str
    columns: tuple[str, ...]
    definition: str
    sharded: bool


Views = Mapping[str, View]
