"""The moves in the catalog: what is read of them, and what their steps write there.

`registering` begins them, `flipping` is their commit point, and `guarded` is why no process writes for a move that
another has taken over.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import text

from shardpool.moves.flipping import Flipping
from shardpool.moves.record import MoveRecord
from shardpool.moves.registering import CONCERNS, Registering

_RECORD = "SELECT id, partition, source, target, attempt, step, detail FROM shardpool_catalog.move "


@dataclass(frozen=True)
class Leftover:
    """A schema that nobody uses any more, on a shard that did not let it be dropped yet."""

    move: int
    shard: str
    schema: str

    def __str__(self) -> str:
        return f"schema {self.schema} on shard {self.shard}"


class Journal(Registering, Flipping):
    """The moves of one keyspace. Methods raise `CatalogUnavailable`, and `MoveTakenOver` where they take a record."""

    def running(self, partition: int | None = None) -> list[MoveRecord]:
        """Return the moves that are neither done nor aborted: those that concern one partition, or all."""
        query = _RECORD + (
            "WHERE keyspace = :keyspace AND state = 'running' "
            f"AND (CAST(:partition AS int) IS NULL OR {CONCERNS}) ORDER BY id"
        )
        with self._catalog.begin() as connection:
            rows = connection.execute(text(query), self._values(partition=partition)).all()
        return [self._record(row) for row in rows]

    def seconds_silent(self, record: MoveRecord) -> float:
        """Return how long the move's process has not been heard of, by the catalog's clock."""
        query = "SELECT extract(epoch FROM clock_timestamp() - updated_at) FROM shardpool_catalog.move WHERE id = :id"
        with self._catalog.begin() as connection:
            return float(connection.execute(text(query), {"id": record.id}).scalar_one())

    def ended(self, record: MoveRecord) -> str | None:
        """Return 'done' or 'aborted' if this attempt has ended the move, else None."""
        query = "SELECT state FROM shardpool_catalog.move WHERE id = :id AND attempt = :attempt AND state <> 'running'"
        with self._catalog.begin() as connection:
            found = connection.execute(text(query), {"id": record.id, "attempt": record.attempt})
            return found.scalar_one_or_none()

    def outcome(self, record: MoveRecord) -> Literal["completed", "undone"]:
        """Return what became of a move that has ended, whoever ended it."""
        query = "SELECT state FROM shardpool_catalog.move WHERE id = :id"
        with self._catalog.begin() as connection:
            state = connection.execute(text(query), {"id": record.id}).scalar_one()
        return "completed" if state == "done" else "undone"

    def kept(self, record: MoveRecord) -> bool:
        """Whether this is a way back whose time has not passed."""
        if record.until is None:
            return False
        with self._catalog.begin() as connection:
            now = connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        return float(now) < record.until

    def rate(self) -> float | None:
        """Return the bytes per second of the latest moves, from beginning to end; None if there were none."""
        query = (
            "SELECT sum((detail->>'bytes')::float8) / nullif(sum(extract(epoch FROM updated_at - started_at)), 0) "
            "FROM (SELECT * FROM shardpool_catalog.move WHERE keyspace = :keyspace AND state = 'done' "
            "AND (detail->>'bytes')::bigint > 1000000 ORDER BY id DESC LIMIT 50) AS latest"
        )
        with self._catalog.begin() as connection:
            found = connection.execute(text(query), self._values()).scalar_one()
        return None if found is None else float(found)

    def leftovers(self) -> list[Leftover]:
        """Return the schemas that moves which have ended could not drop."""
        query = (
            "SELECT c.move, c.shard, c.name FROM shardpool_catalog.cleanup c "
            "JOIN shardpool_catalog.move m ON m.id = c.move "
            "WHERE c.keyspace = :keyspace AND m.state <> 'running' ORDER BY c.id"
        )
        with self._catalog.begin() as connection:
            rows = connection.execute(text(query), self._values()).all()
        return [Leftover(row.move, row.shard, row.name) for row in rows]

    def check(self, record: MoveRecord) -> None:
        """Raise `MoveTakenOver` if this attempt is not the current one."""
        with self.guarded(record):
            pass

    def enter(self, record: MoveRecord, step: str, moving: bool | None = None) -> None:
        """Note the step that is about to run; tell routers that the partition moves, or no longer does, if given."""
        query = "UPDATE shardpool_catalog.move SET step = :step, updated_at = now() WHERE id = :id"
        with self.guarded(record) as connection:
            connection.execute(text(query), {"id": record.id, "step": step})
            if moving is not None:
                self._set_moving(connection, [leg.partition for leg in record.legs], moving)

    def beat(self, record: MoveRecord, detail: Mapping[str, Any]) -> None:
        """Note that the process is alive, and how far it is."""
        query = (
            "UPDATE shardpool_catalog.move SET updated_at = now(), detail = detail || CAST(:detail AS jsonb) "
            "WHERE id = :id"
        )
        with self.guarded(record) as connection:
            connection.execute(text(query), {"id": record.id, "detail": json.dumps(dict(detail))})

    def note_object(self, record: MoveRecord, shard: str, name: str) -> None:
        """Note a schema before it is created, so that it is dropped whatever happens."""
        with self.guarded(record) as connection:
            self._note(connection, record.id, shard, name)

    def forget_object(self, move: int, name: str) -> None:
        """Note that a schema is gone."""
        with self._bounded() as connection:
            self._forget(connection, move, name)

    def serve(self, record: MoveRecord) -> None:
        """Tell routers that the partition no longer moves."""
        with self.guarded(record) as connection:
            self._set_moving(connection, [record.result], False)

    def close(self, record: MoveRecord, state: str, forget: Collection[str] = ()) -> None:
        """End a move as 'done' or 'aborted'. *forget* are names of schemas that are known to be gone."""
        with self.guarded(record) as connection:
            for name in forget:
                self._forget(connection, record.id, name)
            query = "UPDATE shardpool_catalog.move SET state = :state, updated_at = now() WHERE id = :id"
            connection.execute(text(query), {"id": record.id, "state": state})
            if state == "aborted":
                self._set_moving(connection, [leg.partition for leg in record.legs], False)
