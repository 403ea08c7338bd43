"""What every change that a move makes in the catalog goes through: it is accepted from the current attempt only.

The row of a move is locked and compared before anything is changed (`Guarded.guarded`): a process that was frozen, and
whose move was meanwhile taken over, finds a higher attempt there and can change nothing any more. This is also what
makes the flip, the commit point of a move, a compare-and-set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, text

from shardpool.catalog import Catalog
from shardpool.errors import MoveTakenOver
from shardpool.moves.record import MoveRecord


class Guarded:
    """Transactions on the moves of one keyspace, and the changes that several of them make."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    @contextmanager
    def guarded(self, record: MoveRecord) -> Iterator[Connection]:
        """A transaction in which this attempt is, and stays, the current one. Raise `MoveTakenOver` otherwise."""
        query = text(
            "SELECT 1 FROM shardpool_catalog.move "
            "WHERE id = :id AND attempt = :attempt AND state = 'running' FOR UPDATE"
        )
        with self._bounded() as connection:
            if connection.execute(query, {"id": record.id, "attempt": record.attempt}).first() is None:
                raise taken_over(record)
            yield connection

    @contextmanager
    def _bounded(self) -> Iterator[Connection]:
        """A transaction that the catalog ends if this process freezes in it, because its locks would stop every move,
        and that no crash undoes once it is committed."""
        with self._catalog.begin() as connection:
            connection.execute(
                text("SET LOCAL idle_in_transaction_session_timeout = '3s'; SET LOCAL synchronous_commit = 'on'")
            )
            yield connection

    def _set_moving(self, connection: Connection, partitions: Sequence[int], moving: bool) -> None:
        query = (
            "UPDATE shardpool_catalog.placement SET moving = :moving "
            "WHERE keyspace = :keyspace AND partition = ANY(:partitions)"
        )
        connection.execute(text(query), self._values(partitions=list(partitions), moving=moving))
        self._catalog.bump(connection)

    def _note(self, connection: Connection, move: int, shard: str, name: str) -> None:
        query = (
            "INSERT INTO shardpool_catalog.cleanup (keyspace, move, shard, kind, name) "
            "VALUES (:keyspace, :move, :shard, 'schema', :name)"
        )
        connection.execute(text(query), self._values(move=move, shard=shard, name=name))

    def _forget(self, connection: Connection, move: int, name: str) -> None:
        query = "DELETE FROM shardpool_catalog.cleanup WHERE move = :move AND name = :name"
        connection.execute(text(query), {"move": move, "name": name})

    def _values(self, **values: Any) -> dict[str, Any]:
        return {"keyspace": self._catalog.keyspace, **values}

    def _record(self, row: Any) -> MoveRecord:
        return MoveRecord(
            row.id,
            self._catalog.keyspace,
            row.partition,
            row.source,
            row.target,
            row.attempt,
            row.step,
            int(row.detail["epoch"]),
            row.detail,
        )


def taken_over(record: MoveRecord) -> MoveTakenOver:
    return MoveTakenOver(f"{record} was taken over by another process, which finishes or undoes it")
