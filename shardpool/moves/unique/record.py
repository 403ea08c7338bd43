"""A column that is being made unique, in the catalog. Nothing is accepted from a process that another has followed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from shardpool.catalog import Catalog
from shardpool.ddl.log import running_move
from shardpool.errors import MoveInProgress, MoveTakenOver, PreflightFailed, StalePlacement

_BUILD = "SELECT table_name, column_name, attempt, state FROM shardpool_catalog.unique_build WHERE keyspace = :keyspace"
_DEFINITION = (
    "SELECT definition FROM shardpool_catalog.keyspace_table WHERE keyspace = :keyspace AND name = :table FOR UPDATE"
)
_SAVE = (
    "UPDATE shardpool_catalog.keyspace_table SET definition = CAST(:definition AS jsonb) "
    "WHERE keyspace = :keyspace AND name = :table"
)


@dataclass(frozen=True)
class Build:
    """A column that is being made unique. `dropping`: that is being taken back."""

    table: str
    column: str
    attempt: int
    dropping: bool = False

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


def unfinished_build(catalog: Catalog) -> Build | None:
    """Return the column that is being made unique, whether a process works on it or not. Raise `CatalogUnavailable`."""
    with catalog.begin() as connection:
        row = connection.execute(text(_BUILD), {"keyspace": catalog.keyspace}).first()
    return None if row is None else Build(row.table_name, row.column_name, row.attempt, row.state == "dropping")


class Builds:
    """What changes it. Methods raise `CatalogUnavailable`, and `MoveTakenOver` where they take a build."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def begin(self, table: str, column: str, reservations: str) -> Build:
        """Have rows of partitions that are yet to come reserved. The caller holds the catalog's lock "topology".

        Raise `MoveInProgress` if a partition moves, `PreflightFailed` if another column is being made unique.
        """
        move = running_move(self._catalog)
        if move is not None:
            raise MoveInProgress(f"partition {move[0]} is moving from {move[1]} to {move[2]}: wait for it")
        insert = (
            "INSERT INTO shardpool_catalog.unique_build (keyspace, table_name, column_name) "
            "VALUES (:keyspace, :table, :column) ON CONFLICT DO NOTHING"
        )
        first = "SELECT max(id) + 1 FROM shardpool_catalog.partition WHERE keyspace = :keyspace"
        with self._catalog.begin() as connection:
            if connection.execute(text(insert), self._values(table=table, column=column)).rowcount != 1:
                raise PreflightFailed(["another column is being made unique: `shardpool doctor` tells which"])
            number = connection.execute(text(first), self._values()).scalar_one()
            definition = self._definition(connection, table)
            definition["unique"] = {**definition.get("unique", {}), column: reservations}
            definition["building"] = {column: number}
            self._save(connection, table, definition)
        return Build(table, column, 1)

    def take_over(self, build: Build) -> Build:
        """Become the only process that works on it."""
        query = (
            "UPDATE shardpool_catalog.unique_build SET attempt = attempt + 1 "
            "WHERE keyspace = :keyspace AND attempt = :attempt RETURNING attempt"
        )
        with self._catalog.begin() as connection:
            attempt = connection.execute(text(query), self._values(attempt=build.attempt)).scalar_one_or_none()
        if attempt is None:
            raise _taken_over(build)
        return Build(build.table, build.column, attempt, build.dropping)

    def check(self, build: Build) -> None:
        """Raise `MoveTakenOver` if this process is not the one that works on it."""
        with self._guarded(build):
            pass

    def complete(self, build: Build) -> None:
        """The column is unique."""
        with self._guarded(build) as connection:
            definition = self._definition(connection, build.table)
            definition["building"] = {}
            self._forget(connection)
            self._save(connection, build.table, definition)

    def begin_drop(self, build: Build) -> None:
        """It is not made unique any more: from here on there is no way but back."""
        query = "UPDATE shardpool_catalog.unique_build SET state = 'dropping' WHERE keyspace = :keyspace"
        with self._guarded(build) as connection:
            connection.execute(text(query), self._values())

    def end_drop(self, build: Build) -> None:
        with self._guarded(build) as connection:
            self._forget(connection)

    @contextmanager
    def _guarded(self, build: Build) -> Iterator[Connection]:
        with self._catalog.begin() as connection:
            row = connection.execute(text(_BUILD + " FOR UPDATE"), self._values()).first()
            if row is None or (row.table_name, row.column_name, row.attempt) != (
                build.table,
                build.column,
                build.attempt,
            ):
                raise _taken_over(build)
            yield connection

    def _definition(self, connection: Connection, table: str) -> dict[str, Any]:
        found = connection.execute(text(_DEFINITION), self._values(table=table)).scalar_one_or_none()
        if found is None:
            raise StalePlacement(f"table {table!r} was dropped meanwhile")
        return dict(found)

    def _save(self, connection: Connection, table: str, definition: dict[str, Any]) -> None:
        connection.execute(text(_SAVE), self._values(table=table, definition=json.dumps(definition)))
        self._catalog.bump(connection)

    def _forget(self, connection: Connection) -> None:
        query = "DELETE FROM shardpool_catalog.unique_build WHERE keyspace = :keyspace"
        connection.execute(text(query), self._values())

    def _values(self, **values: Any) -> dict[str, Any]:
        return {"keyspace": self._catalog.keyspace, **values}


def _taken_over(build: Build) -> MoveTakenOver:
    return MoveTakenOver(f"making {build} unique was taken over by another process, which finishes or undoes it")
