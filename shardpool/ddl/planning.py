"""What the rules share while a script is planned: declarations, the history so far, and small answers about both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shardpool.ddl.history import History
from shardpool.ddl.refusals import refuse
from shardpool.ddl.script import ParsedStatement
from shardpool.ddl.statement import DdlStatement, Owner, Scope, What
from shardpool.ddl.tree import digest
from shardpool.topology.tables import Table, TableKind

_RESERVED = re.compile(r"shardpool_|pg_")


@dataclass
class Planning:
    """The state of planning one script. `repeated` counts, per owner, the script's changes that are already done."""

    keyspace: str
    declared: Mapping[str, TableKind]
    history: History
    repeated: dict[Owner, int]

    def table(self, name: str, line: int) -> Table:
        """Return a table of the keyspace. Raise `SchemaError` if there is none of that name."""
        try:
            return self.history.tables[name]
        except KeyError:
            raise refuse("SP250", line=line, what="table", name=name) from None

    def created_before(self, statement: ParsedStatement, what: What, name: str, table: str = "") -> bool:
        """Whether a CREATE is an exact repetition. Raise `SchemaError` if the object exists by another definition."""
        if self.history.repeats(what, name, table, digest(statement.tree)):
            return True
        if self.history.current(what, name, table) and not getattr(statement.tree, "replace", False):
            raise refuse("SP251", line=statement.line, what=what, name=name)
        return False

    def changed_before(self, owner: Owner) -> bool:
        """Whether the script's next change to *owner* is one of those that are already done."""
        if not self.repeated.get(owner):
            return False
        self.repeated[owner] -= 1
        return True

    def check_new_name(self, name: str, line: int) -> None:
        if _RESERVED.match(name):
            raise refuse("SP207", line=line, name=name)


def scope_of(table: Table) -> Scope:
    return "partition" if table.sharded else "shard"


def kind_of(table: Table) -> TableKind:
    return table.kind


def unchanged(statement: ParsedStatement, scope: Scope = "shard") -> list[DdlStatement]:
    """Return the plan of a statement that need not run."""
    return [DdlStatement(statement.text, scope, unchanged=True)]
