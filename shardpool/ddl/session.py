"""One shard's transaction of a schema change: everything on this shard happens in it, or nothing.

It begins with a lock that only schema changes take. Whoever holds it on *all* shards knows that no other one is half
way, whatever became of the process that began it; this is what `SchemaManager` relies on after a crash.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2

from shardpool.ddl.introspect import find_behind, read_functions, search_path
from shardpool.ddl.locks import lock_at_once, mode_for, names_of, tables_in
from shardpool.ddl.log import Recorded
from shardpool.ddl.objects import is_sql_function
from shardpool.ddl.owner import act_as_owner
from shardpool.ddl.refusals import refuse
from shardpool.ddl.statement import Scope
from shardpool.ddl.views import VIEWS, Printed
from shardpool.errors import ShardUnavailable
from shardpool.topology.names import quote
from shardpool.two_phase.names import DURABLE, create_records

#: lock_not_available, deadlock_detected: somebody else's locks were in the way; another attempt may succeed.
RETRYABLE = frozenset({"55P03", "40P01"})
#: query_canceled: what a statement with a limit of its own ends with.
CANCELLED = "57014"

#: So many characters of a statement are shown in messages.
_SHOWN = 300


class ShardSession:
    """A transaction on *connection*, for the partitions whose schemas are given. Raises `SchemaError`."""

    def __init__(self, keyspace: str, shard: str, schemas: Sequence[str], connection: Any) -> None:
        self.keyspace, self.shard, self.schemas, self.connection = keyspace, shard, tuple(schemas), connection
        self._path: str | None = None

    def begin(self, lock_timeout: float) -> None:
        """Set the transaction's limits and take the lock of schema changes. What is read then is of after that."""
        settings = (
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
            f"SET LOCAL lock_timeout = {max(1, int(lock_timeout * 1000))}",
            "SET LOCAL statement_timeout = 0",
            "SET LOCAL idle_in_transaction_session_timeout = 0",
            DURABLE,  # the catalog will say that it is done
        )
        self.run("; ".join(settings))
        with self._translated("SET ROLE", f"schema {self.keyspace}"):
            act_as_owner(self.connection, self.keyspace)
        key = f"shardpool ddl {self.keyspace}"
        self.run("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (key,))

    def create_schemas(self, fresh: bool) -> None:
        """Create what is missing. The schema of a partition may be missing only if no table was ever created."""
        self.create_schema(self.keyspace)
        marks = f"{quote(self.keyspace)}.shardpool_ddl"
        if not self.run("SELECT 1 WHERE to_regclass(%s) IS NOT NULL", (marks,)):
            self.run(f"CREATE TABLE {marks} (id bigint PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())")
        self.run(create_records(self.keyspace))
        for schema in self.schemas:
            if self.create_schema(schema) and not fresh:
                raise refuse("SP267", shard=self.shard, schema=schema)

    def create_schema(self, schema: str) -> bool:
        """Create a schema; return whether it was missing."""
        missing = not self.run("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,))
        if missing:
            self.run(f"CREATE SCHEMA {quote(schema)}")
        return missing

    def lock(self, batch: Sequence[Recorded], patience: float) -> None:
        """Lock the tables that a batch is about, so that none is waited for while writers wait for another. *patience*
        is a share of the server's deadlock_timeout. Raise `SchemaError`, which may pass."""
        mode = mode_for(batch)
        if mode is None:
            return
        statements = [it.statement for it in batch]
        with self.connection.cursor() as cursor:
            with self._translated("catalog queries", ""):
                found = tables_in(cursor, self.schemas, names_of(statements, "partition"))
                found += tables_in(cursor, [self.keyspace], names_of(statements, "shard"))
            try:
                lock_at_once(cursor, found, mode, patience)
            except psycopg2.Error as error:
                statement, where = f"LOCK TABLE {', '.join(found)}", f"schema {self.keyspace}"
                raise self.failure(error, statement, where, RETRYABLE | {CANCELLED}) from error

    def applied(self, ids: Collection[int]) -> frozenset[int]:
        """Return which of the statements *ids* this shard has."""
        rows = self.run(f"SELECT id FROM {quote(self.keyspace)}.shardpool_ddl WHERE id = ANY(%s)", (list(ids),))
        return frozenset(number for (number,) in rows)

    def execute(self, recorded: Recorded) -> None:
        """Run one statement in all its places, and note that this shard has it."""
        statement = recorded.statement
        if any((it.verb, it.what) == ("create", "function") for it in statement.effects):
            # A body in SQL is looked up at once, and may name tables that are only found in a partition.
            checked = "off" if is_sql_function(statement.text) else "on"
            self.run(f"SET LOCAL check_function_bodies = {checked}")
        for schema in self.schemas if statement.scope == "partition" else (None,):
            self.run_in(schema, statement.text)
        self.note([recorded.id])

    def note(self, ids: Iterable[int]) -> None:
        """Note that this shard has the statements *ids*."""
        query = f"INSERT INTO {quote(self.keyspace)}.shardpool_ddl (id) SELECT unnest(%s::bigint[])"
        self.run(query, (list(ids),))

    def check_nothing_behind(self, names: Collection[str]) -> None:
        """Raise `SchemaError` if one of *names* is found without its partition."""
        with self.reading() as cursor:
            found = find_behind(cursor, self.keyspace, sorted(names))
        for schema, name in found:
            raise refuse("SP262", shard=self.shard, schema=schema, name=name)

    def functions(self) -> frozenset[str]:
        with self.reading() as cursor:
            return read_functions(cursor)

    def views(self, scopes: Mapping[str, Scope]) -> list[Printed]:
        """Return the views *scopes* as this server prints them: of those in partitions, the first one's."""
        self._path = None
        self.run("SET LOCAL search_path TO ''")
        found = []
        for schema, scope in ((self.schemas[0], "partition"), (self.keyspace, "shard")):
            names = [name for name, its_scope in scopes.items() if its_scope == scope]
            rows = self.run(VIEWS, (schema, names))
            found += [Printed(name, columns, definition, schema) for name, columns, definition in rows]
        return found

    def finish(self) -> None:
        """Let nothing be left that could fail at the commit."""
        self.run("SET CONSTRAINTS ALL IMMEDIATE")

    def commit(self) -> None:
        """Commit. Raises the driver's own error: what it means depends on what else was committed."""
        self.connection.commit()
        self._path = None

    def run_in(self, schema: str | None, statement: str) -> None:
        """Run a statement where names are those of a partition's *schema*, or the shared ones."""
        path = search_path(self.keyspace, schema)
        if path != self._path:
            statement = f"{path};\n{statement}"
        where = f"partition {schema}" if schema else f"schema {self.keyspace}"
        self.run(statement, where=where)
        self._path = path

    def roll_back_to(self, savepoint: str) -> None:
        """Take back what was done since a savepoint, and forget it; the search path goes with it."""
        self._path = None
        self.run(f"ROLLBACK TO SAVEPOINT {savepoint}; RELEASE SAVEPOINT {savepoint}")

    def run(self, statement: str, values: Sequence[object] | None = None, where: str = "") -> Sequence[Any]:
        """Run a statement and return its rows, if it has any."""
        with self._translated(statement, where), self.connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else ()

    @contextmanager
    def reading(self, schema: str | None = None) -> Iterator[Any]:
        """A cursor to read the server's catalogs with, where names are those of *schema*."""
        self.run_in(schema, "SELECT")
        with self._translated("catalog queries", ""), self.connection.cursor() as cursor:
            yield cursor

    @contextmanager
    def _translated(self, statement: str, where: str) -> Iterator[None]:
        try:
            yield
        except psycopg2.Error as error:
            raise self.failure(error, statement, where or f"schema {self.keyspace}") from error

    def failure(
        self, error: psycopg2.Error, statement: str, where: str, passing: Collection[str] = RETRYABLE
    ) -> Exception:
        """Translate a driver's error. Nothing was committed, so that a lost connection may be tried again."""
        if lost(error):
            return ShardUnavailable(self.shard, first_line(error))
        text = statement.split(";\n", 1)[-1] if statement.startswith("SET LOCAL search_path") else statement
        code = "SP264" if error.pgcode in passing else "SP263"
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."
        return refuse(code, shard=self.shard, where=where, reason=first_line(error), statement=shown)


def lost(error: psycopg2.Error) -> bool:
    """Whether the connection is gone, rather than the statement wrong. Being cancelled is neither."""
    code = error.pgcode or "08000"
    return code.startswith("08") or code in ("57P01", "57P02", "57P03")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
