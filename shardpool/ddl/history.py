"""What the recorded statements have left: which objects there are, by which definitions, and on which tables.

The catalog's log of statements is the only authority on what a script has already done. `History` folds it, and then
goes on folding the statements of a new script, so that a script is planned against its own earlier lines too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shardpool.ddl.script import parse_statement
from shardpool.ddl.statement import DdlStatement, Effect, Owner, Scope, What
from shardpool.ddl.tree import digest
from shardpool.topology.tables import Table


@dataclass(frozen=True)
class Created:
    """An object that exists. `first_name` is the one in its CREATE, `digest` the CREATE's."""

    what: What
    first_name: str
    name: str
    table: str
    digest: str


@dataclass
class History:
    """Tables, other objects, where views are, and the changes made to each owner since its creation."""

    tables: dict[str, Table] = field(default_factory=dict)
    objects: list[Created] = field(default_factory=list)
    views: dict[str, Scope] = field(default_factory=dict)
    changes: dict[Owner, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, recorded: Iterable[DdlStatement], tables: Mapping[str, Table], keyspace: str) -> History:
        """Fold what was recorded; *tables* are as the catalog has them."""
        history = cls()
        for statement in recorded:
            history.fold(statement, digest(parse_statement(statement.source or statement.text, keyspace).tree))
        history.tables = dict(tables)
        for name in tables:
            if not history.current("table", name):
                history.objects.append(Created("table", name, name, "", ""))
        return history

    # -- asking -----------------------------------------------------------------------------------------------------

    def current(self, what: str, name: str, table: str | None = None) -> Created | None:
        """Return the object that has this name now. Names of triggers and foreign keys count per table."""
        return next(
            (it for it in self.objects if (it.what, it.name) == (what, name) and table in (None, it.table)), None
        )

    def repeats(self, what: str, name: str, table: str, mark: str) -> bool:
        """Whether the object of exactly this CREATE still exists; it may have been renamed since."""
        return any((it.what, it.first_name, it.table, it.digest) == (what, name, table, mark) for it in self.objects)

    def has_index_of(self, table: str, mark: str) -> bool:
        """Whether the index of exactly this CREATE INDEX, which may have no name, still exists."""
        return any((it.what, it.table, it.digest) == ("index", table, mark) for it in self.objects)

    def functions(self, name: str) -> list[Created]:
        """Return the functions of a name, whatever their arguments."""
        return [it for it in self.objects if it.what == "function" and it.name.partition("(")[0] == name]

    def already_done(self, owner: Owner, marks: Sequence[str]) -> int:
        """Return how many of a script's changes to *owner* are its latest ones already.

        A script that is run again repeats the end of the history; one that was extended repeats it and adds to it.
        Anything else is new, even if the same words were once used: SET DEFAULT 1, SET DEFAULT 2, SET DEFAULT 1.
        """
        done = self.changes.get(owner, [])
        sizes = range(min(len(marks), len(done)), 0, -1)
        return next((size for size in sizes if list(marks[:size]) == done[-size:]), 0)

    # -- folding ----------------------------------------------------------------------------------------------------

    def fold(self, statement: DdlStatement, mark: str) -> None:
        for effect in statement.effects:
            self._apply(effect, mark)
            if (effect.verb, effect.what) == ("create", "view"):
                self.views[effect.name] = statement.scope

    def _apply(self, effect: Effect, mark: str) -> None:
        if effect.verb == "change":
            self.changes.setdefault((effect.what, effect.name), []).append(mark)
        elif effect.verb == "rename":
            self.objects = [replace(it, name=effect.new_name) if _is(it, effect) else it for it in self.objects]
        else:
            for it in [it for it in self.objects if _is(it, effect)]:
                self._forget(it)
            if effect.verb == "create":
                self.objects.append(Created(effect.what, effect.name, effect.name, effect.table, mark))

    def _forget(self, gone: Created) -> None:
        self.objects.remove(gone)
        self.changes.pop((gone.what, gone.name), None)
        self.changes.pop((gone.what, gone.first_name), None)
        if gone.what == "view":
            self.views.pop(gone.name, None)
        if gone.what == "table":
            self.tables.pop(gone.name, None)
            for it in [it for it in self.objects if it.table == gone.name]:
                self._forget(it)


def _is(created: Created, effect: Effect) -> bool:
    return (created.what, created.name, created.table) == (effect.what, effect.name, effect.table)
