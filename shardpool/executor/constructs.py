"""SQLAlchemy constructs: compiled, bound and typed by SQLAlchemy, executed by the router.

An engine whose "DBAPI connection" hands each statement to a function of ours, the one of the current call. SQLAlchemy
compiles the construct, converts parameters and result values by their types and caches its work, as for any engine;
only the sending is different.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine import Result
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from sqlalchemy.sql import Executable

from shardpool.errors import WrongParameters
from shardpool.executor.ids import IDS, GivesIds
from shardpool.executor.parameters import check_mapping
from shardpool.executor.results import RoutedResult

#: Runs text in psycopg2's spelling.
Run = Callable[[str, Mapping[str, Any]], RoutedResult]
#: What psycopg2 takes as parameters of a statement.
Given = Mapping[str, Any] | Sequence[Any] | None

_PLACEHOLDER = re.compile("%[%s]")


class RoutedDialect(PGDialect_psycopg2):
    """PostgreSQL through psycopg2, without a server to ask at the first connection."""

    supports_statement_cache = True

    def initialize(self, connection: Any) -> None:
        self.server_version_info = (14,)
        self.default_schema_name = "public"
        self.default_isolation_level = "READ COMMITTED"

    def on_connect(self) -> None:
        return None

    def get_default_isolation_level(self, dbapi_conn: Any) -> Any:
        return "READ COMMITTED"

    def get_isolation_level_values(self, dbapi_conn: Any) -> Any:
        return ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

    def get_isolation_level(self, dbapi_connection: Any) -> Any:
        return dbapi_connection.isolation

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        dbapi_connection.isolation = level

    def has_table(self, connection: Any, table_name: str, schema: str | None = None, **options: Any) -> bool:
        return schema is None and connection.connection.dbapi_connection.has_table(table_name)

    def has_multi_table(
        self, connection: Any, table_names: Iterable[str], schema: str | None = None, **options: Any
    ) -> Iterable[tuple[tuple[str | None, str], bool]]:
        return [((schema, name), self.has_table(connection, name, schema)) for name in table_names]

    def set_deferrable(self, connection: Any, value: bool) -> None:
        if value:
            raise NotImplementedError("transactions over shards are never DEFERRABLE")

    def do_begin_twophase(self, connection: Any, xid: Any) -> None:
        raise NotImplementedError(
            "a commit over several shards is one by itself, and cannot be a part of another engine's two-phase commit: "
            "leave out twophase=True"
        )

    def do_savepoint(self, connection: Any, name: str) -> None:
        connection.connection.dbapi_connection.savepoint(name)

    def do_release_savepoint(self, connection: Any, name: str) -> None:
        connection.connection.dbapi_connection.release_savepoint(name)

    def do_rollback_to_savepoint(self, connection: Any, name: str) -> None:
        connection.connection.dbapi_connection.roll_back_to(name)


registry.register("postgresql.shardpool", __name__, "RoutedDialect")


class Constructs:
    """Executes constructs through functions that run text. Thread-safe."""

    def __init__(self, ids: GivesIds) -> None:
        self._run: ContextVar[Run] = ContextVar("shardpool construct")
        engine = create_engine(
            "postgresql+shardpool://",
            creator=lambda: _Connection(self._run.get()),
            poolclass=NullPool,
            hide_parameters=True,
        )
        self._engine = engine.execution_options(**{IDS: ids})

    def execute(self, construct: Executable, params: Mapping[str, Any] | None, run: Run) -> Result[Any]:
        """Execute *construct* by *run*, and return a result that outlives it."""
        check_mapping(params)
        token = self._run.set(run)
        try:
            with self._engine.connect() as connection:
                result = connection.execute(construct, dict(params) if params else None)
                return result.freeze()() if result.returns_rows else result
        finally:
            self._run.reset(token)


class _Connection:
    """As much of a DBAPI connection as SQLAlchemy uses. It has no transactions: each statement is its own."""

    isolation = "READ COMMITTED"
    closed = 0
    notices: tuple[str, ...] = ()

    def __init__(self, run: Run) -> None:
        self._run = run

    def cursor(self, *args: object, **options: object) -> Cursor:
        return Cursor(self, self._run)

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


class Cursor:
    """A DBAPI cursor whose statements are run by a function."""

    arraysize = 1
    name = None

    def __init__(self, connection: object, run: Run) -> None:
        self.connection = connection
        self._run = run
        self.description: Any = None
        self.rowcount = -1
        self._rows: list[Any] = []

    def execute(self, sql: str, parameters: Given = None) -> None:
        try:
            result = self._run(*_named(sql, parameters))
        except DBAPIError as error:
            # SQLAlchemy makes the same of it, with the statement that failed.
            raise error.orig or error from None
        self.description, self.rowcount = result.description, result.rowcount
        self._rows = result.rows[::-1]

    def executemany(self, sql: str, rows: Iterable[Given]) -> None:
        written = 0
        for row in rows:
            self.execute(sql, row)
            written += self.rowcount
        self.rowcount = written

    def fetchone(self) -> Any:
        return self._rows.pop() if self._rows else None

    def fetchmany(self, size: int = 1) -> list[Any]:
        return [self._rows.pop() for _ in range(min(size, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows[::-1], []
        return rows

    def close(self) -> None: ...


def _named(sql: str, parameters: Given) -> tuple[str, Mapping[str, Any]]:
    """Return text whose parameters have names. As for psycopg2, percent signs mean themselves where there are none."""
    if parameters is None:
        return sql.replace("%", "%%"), {}
    if isinstance(parameters, Mapping):
        return sql, parameters
    found: dict[str, Any] = {}
    rest = iter(parameters)

    def name(place: re.Match[str]) -> str:
        if place.group() == "%%":
            return "%%"
        try:
            found[f"p{len(found) + 1}"] = next(rest)
        except StopIteration:
            raise WrongParameters(f"the statement has more %s than the {len(found)} parameters given") from None
        return f"%(p{len(found)})s"

    words = _PLACEHOLDER.sub(name, sql)
    if len(found) < len(parameters):
        raise WrongParameters(f"the statement has {len(found)} %s, got {len(parameters)} parameters")
    return words, found
