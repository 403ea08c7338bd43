"""One shard's part of a transaction: a leased connection on which a transaction is open.

BEGIN and savepoints are not sent alone: they travel in one message with the statement that first needs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from shardpool.engines import Engines
from shardpool.engines.prepared import SessionCursor
from shardpool.engines.right_of_way import Passage
from shardpool.executor.results import RoutedResult
from shardpool.executor.texts import open_cursor
from shardpool.planner.often import OftenUsed
from shardpool.topology.names import literal

#: The version whose grammar our parser has: an older server may not understand what it lets through.
GRAMMAR = 180000


@cache
def _reported(path: str) -> str:
    """What PostgreSQL 18 tells its clients while *path* is set, if no name needs quotes. Older ones tell nothing."""
    return path.removeprefix("SET LOCAL search_path TO ").removesuffix(";").replace('"', "")


class Branch:
    """Takes a connection of *shard*, in autocommit mode; *begin* opens the transaction. One that has others already
    comes with its *passage*. Raise `ShardUnavailable`, `PoolTimeout`. `release` gives the connection back."""

    may_write = False
    #: Rows are locked, or written.
    locks = False
    used = False
    #: Cancelled from another thread. The cancellation may come late: the connection is not used again.
    cancelled = False
    #: Partitions that were read under a snapshot and found in place.
    seen: frozenset[int] = frozenset()
    _name = _mark = ""
    _savepoints: Sequence[str] = ()

    def __init__(self, engines: Engines, shard: str, begin: str, passage: Passage | None = None) -> None:
        self.shard = shard
        self._begin = begin
        self._pool = engines.pool(shard)
        self._entry = self._pool.lease(passage)
        connection: Any = self._entry.dbapi_connection
        self.connection = connection
        self.cursor: SessionCursor = self._entry.info["cursor"]
        self.cursor.path = ""

    def send_mark(self) -> None:
        """Give the session its name now, if it has not got it yet; one without a transaction gets it with that.

        Raise psycopg2's errors.
        """
        if self._mark and self.used:
            with self.connection.cursor() as cursor:
                cursor.execute(self._mark)
            self._mark = ""

    def mark(self, name: str) -> None:
        """Give the session a name, with its next statement."""
        self._name = name
        self._mark = f"SET LOCAL application_name TO {literal(name)}"

    def run(
        self,
        sql: str,
        parameters: Mapping[str, Any],
        savepoints: Sequence[str],
        texts: bool = False,
        path: str = "",
        often: OftenUsed | None = None,
    ) -> RoutedResult:
        """Run a statement inside of *savepoints*, after *path* was set. *texts*: with values as they are spelt;
        *often*: how it is prepared, once it was used often. Raise psycopg2's errors."""
        cursor = open_cursor(self.connection, True) if texts else self.cursor
        if path:
            self.cursor.path = path
            if often is not None:
                sql = often.call(self.cursor.prepared(often.types, often.text)) or sql
            if not self.used or self.connection.get_parameter_status("search_path") != _reported(path):
                sql = path + sql
        prefix = self._prefix(savepoints)
        if prefix:
            if "SAVEPOINT" in prefix and self.connection.server_version < GRAMMAR:
                # A message that the server cannot parse does nothing at all: the savepoint would not be there.
                cursor.execute(prefix)
            else:
                sql = prefix + sql
        try:
            cursor.execute(sql, parameters)
        except psycopg2.errors.InvalidSqlStatementName:
            self.connection.close()  # A user's function has deallocated it. Another session will do: retryable.
            raise
        description = cursor.description
        rows = cursor.fetchall() if description is not None else []
        return RoutedResult(description, rows, cursor.rowcount)

    def copy(self, sql: str, file: Any, parameters: Mapping[str, Any] | None = None) -> int:
        """Run a COPY to or from *file*, after another statement, and return its rows. Raise psycopg2's errors."""
        with self.connection.cursor() as cursor:
            text = sql if parameters is None else cursor.mogrify(sql, parameters).decode()
            cursor.copy_expert(text, file)
            return int(cursor.rowcount)

    def enter(self, savepoints: Sequence[str]) -> None:
        """Open the transaction and set *savepoints*, if that is still to be done."""
        prefix = self._prefix(savepoints)
        if prefix:
            with self.connection.cursor() as cursor:
                cursor.execute(prefix)

    def _prefix(self, savepoints: Sequence[str]) -> str:
        """What brings the session to where it must be. It is noted as done: if it fails, the transaction is over."""
        prefix = ""
        if not self.used:
            prefix = self._begin + "; "
            self.used = True
        if self._mark:
            prefix += self._mark + "; "
            self._mark = ""
        if savepoints or self._savepoints:
            prefix += self._inside(savepoints)
        return prefix

    def _inside(self, savepoints: Sequence[str]) -> str:
        known = self._savepoints
        common = 0
        while common < min(len(savepoints), len(known)) and savepoints[common] == known[common]:
            common += 1
        left = [f"RELEASE SAVEPOINT {known[common]}; "] if common < len(known) else []
        self._savepoints = list(savepoints)
        return "".join(left + [f"SAVEPOINT {name}; " for name in savepoints[common:]])

    def roll_back_to(self, savepoint: str) -> None:
        """Take back what was done since *savepoint*. Raise psycopg2's errors."""
        if savepoint in self._savepoints:
            with self.connection.cursor() as cursor:
                cursor.execute(f"ROLLBACK TO SAVEPOINT {savepoint}")
            self._savepoints = self._savepoints[: self._savepoints.index(savepoint) + 1]
            if self._name:
                self.mark(self._name)  # it may have gone with the savepoint

    def end(self, command: str) -> None:
        """COMMIT or ROLLBACK. Raise psycopg2's errors."""
        if self.used:
            self.cursor.execute(command)

    def release(self) -> None:
        """Give the connection back; one that is still in a transaction is closed, which rolls back."""
        # The status of one that is closed, or broken, is not known.
        if self.cancelled or self.connection.get_transaction_status() != TRANSACTION_STATUS_IDLE:
            self._pool.discard(self._entry)
        else:
            self._pool.give_back(self._entry)
