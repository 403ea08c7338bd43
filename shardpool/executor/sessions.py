"""ORM sessions over all shards: every statement that a Session sends is answered by a transaction of the router.

The Session is bound to one engine, so that its identity map, unit of work and relationships work as for one database:
`get`, flushes and lazy loads name the partition key and run on one partition; queries go through the planner. What the
engine takes for its DBAPI connection begins a `Transaction` with the first statement, and commits it as one.

Schema changes (of `MetaData.create_all`, of Alembic) go to the router's own. Those that follow each other are one
script, everywhere or nowhere, which is applied before the next other statement, or by the commit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from shardpool.executor.constructs import Cursor
from shardpool.executor.ids import IDS, GivesIds
from shardpool.executor.results import RoutedResult
from shardpool.executor.transaction import Isolation, Transaction
from shardpool.planner.refusals import refuse

#: Begins a transaction in this isolation level, read-only or not.
Begin = Callable[[Isolation, bool], Transaction]

_SCHEMA_CHANGE = re.compile(r"\s*(create|alter|drop|comment)\s", re.IGNORECASE)


@dataclass(frozen=True)
class Schema:
    """The tables that there are, and what changes them by a script."""

    tables: Callable[[], Container[str]]
    change: Callable[[str], object]


def routed_engine(begin: Begin, schema: Schema, ids: GivesIds) -> Engine:
    """Return an engine over all shards, for Sessions and connections; it holds no connections of its own."""
    engine = create_engine(
        "postgresql+shardpool://",
        creator=lambda: RoutedConnection(begin, schema),
        poolclass=NullPool,
        hide_parameters=True,
    )
    return engine.execution_options(**{IDS: ids})


class RoutedConnection:
    """As much of a DBAPI connection as SQLAlchemy uses, over one transaction after another."""

    closed = 0
    notices: tuple[str, ...] = ()
    readonly = deferrable = False

    def __init__(self, begin: Begin, schema: Schema) -> None:
        self._schema = schema
        self.isolation = "READ COMMITTED"
        self._begin = begin
        self._transaction: Transaction | None = None
        self._savepoints: dict[str, AbstractContextManager[None]] = {}
        self._changes: list[str] = []

    @property
    def _current(self) -> Transaction:
        if self._transaction is None:
            self._transaction = self._begin(cast(Isolation, self.isolation), self.readonly)
        return self._transaction

    def cursor(self, *arguments: object, **options: object) -> Cursor:
        return Cursor(self, self._run)

    def _run(self, sql: str, parameters: Mapping[str, Any]) -> RoutedResult:
        if _SCHEMA_CHANGE.match(sql) and not parameters:
            return self._note_change(sql.replace("%%", "%"))
        self._change_schema()
        return self._current.pyformat(sql, parameters)

    def has_table(self, name: str) -> bool:
        self._change_schema()
        return name in self._schema.tables()

    def _note_change(self, words: str) -> RoutedResult:
        begun = self._transaction
        if self._savepoints or (begun is not None and (begun.may_write or begun.isolation != "READ COMMITTED")):
            raise refuse("SP145")
        self._changes.append(words)
        return RoutedResult(None, [], -1)

    def _change_schema(self) -> None:
        if self._changes:
            script = "\n;\n".join(self._changes)
            self.rollback()  # what the transaction has read must not keep the change waiting
            self._schema.change(script)

    def commit(self) -> None:
        self._change_schema()
        transaction, self._transaction = self._transaction, None
        self._savepoints.clear()
        if transaction is not None:
            transaction.commit()

    def rollback(self) -> None:
        transaction, self._transaction = self._transaction, None
        self._savepoints.clear()
        self._changes.clear()
        if transaction is not None:
            transaction.rollback()

    close = rollback

    def savepoint(self, name: str) -> None:
        self._change_schema()
        block = self._current.savepoint()
        block.__enter__()
        self._savepoints[name] = block

    def release_savepoint(self, name: str) -> None:
        self._savepoints.pop(name).__exit__(None, None, None)

    def roll_back_to(self, name: str) -> None:
        """Take back what was done since the savepoint, which ends; SQLAlchemy makes no more use of it."""
        taken_back = _TakenBack()
        try:
            self._savepoints.pop(name).__exit__(_TakenBack, taken_back, None)
        except _TakenBack:
            return


class _TakenBack(Exception):
    """Ends a savepoint's block as an error does."""
