"""A planned statement: what runs where, and what it does to the names that the keyspace knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shardpool.topology.tables import TableKind

#: 'partition': once in every partition's schema. 'shard': once per shard, in the keyspace's own schema.
Scope = Literal["partition", "shard"]

What = Literal["table", "view", "index", "trigger", "type", "function", "foreign key"]

#: They have their names in common.
RELATIONS = ("table", "view")

#: What a recorded change belongs to: ("table", "orders") or ("index", "orders_by_day").
Owner = tuple[What, str]


@dataclass(frozen=True)
class Effect:
    """One thing that a statement does to a named object; `table` is the table that the object belongs to, or ''.

    'lose' is a drop that the statement does not name: an index goes with its column.
    """

    verb: Literal["create", "drop", "lose", "rename", "change"]
    what: What
    name: str
    table: str = ""
    new_name: str = ""


@dataclass(frozen=True)
class DdlStatement:
    """One statement as it is run and recorded.

    A foreign key written inside CREATE TABLE or ADD COLUMN becomes a statement of its own, because a partition that
    arrives on a shard gets its foreign keys after its rows. Such parts share their `source`, what the user wrote, and
    are counted by `part`.
    """

    text: str
    scope: Scope
    #: Needed only after rows were copied: indexes, triggers, foreign keys, and what maintains these.
    after_copy: bool = False
    source: str = ""
    part: int = 0
    #: Tables created or altered -> their kind; dropped -> None.
    tables: Mapping[str, TableKind | None] = field(default_factory=dict)
    effects: tuple[Effect, ...] = ()
    #: It was applied before: nothing is to be done.
    unchanged: bool = False

    @property
    def owners(self) -> frozenset[str]:
        """The tables and views that the statement is about."""
        of_effects = (it.name if it.what in RELATIONS else it.table for it in self.effects if it.verb != "lose")
        return frozenset(self.tables).union(name for name in of_effects if name)

    @property
    def existing_indexes(self) -> tuple[str, ...]:
        """Indexes that the statement names without creating them."""
        return tuple(it.name for it in self.effects if it.what == "index" and it.verb not in ("create", "lose"))
