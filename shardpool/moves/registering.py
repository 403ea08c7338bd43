"""How moves begin in the catalog, and how another process makes one its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text

from shardpool.ddl.log import unique_build_in
from shardpool.errors import MoveInProgress, PreflightFailed
from shardpool.moves.guarded import Guarded, taken_over
from shardpool.moves.record import MoveRecord

#: Whether a move takes from, or gives to, the partition.
CONCERNS = """(partition = :partition
    OR detail->'sources' @> jsonb_build_array(jsonb_build_object('partition', CAST(:partition AS int)))
    OR detail->'targets' @> jsonb_build_array(jsonb_build_object('partition', CAST(:partition AS int))))"""


class Registering(Guarded):
    """Begins moves, and changes of partitions."""

    def register(self, partition: int, source: str, target: str, step: str, detail: Mapping[str, Any]) -> MoveRecord:
        """Begin a move: it is in the catalog when this returns.

        The caller holds the catalog's lock "topology", so that the tables stay as they are. Raise `MoveInProgress` if
        the partition moves already, `PreflightFailed` if its placement or the target changed since they were checked.
        """
        with self._bounded() as connection:
            self._check_not_building(connection)
            epoch = self._check_unchanged(connection, partition, source)
            self._check_takes(connection, target)
            return self._insert(connection, partition, source, target, step, {**detail, "epoch": epoch})

    def register_change(
        self, sources: Mapping[int, str], pieces: Sequence[tuple[int, int, str]], step: str, detail: Mapping[str, Any]
    ) -> MoveRecord:
        """Begin a change of partitions, from partition -> shard to pieces of (low, high, shard), as `register`.

        Each piece gets a new number here, which no other range ever had or will have, whatever becomes of the change.
        """
        create = (
            "INSERT INTO shardpool_catalog.partition (keyspace, id, low, high, state, parents) "
            "SELECT :keyspace, max(id) + 1, :low, :high, 'planned', :parents FROM shardpool_catalog.partition "
            "WHERE keyspace = :keyspace RETURNING id"
        )
        with self._bounded() as connection:
            if detail["kind"] != "renumber":
                self._check_not_building(connection)
            # Numbers are given by one at a time.
            lock = "SELECT 1 FROM shardpool_catalog.keyspace WHERE name = :keyspace FOR UPDATE"
            connection.execute(text(lock), self._values())
            given: list[dict[str, Any]] = [
                {"partition": number, "shard": shard, "epoch": self._check_unchanged(connection, number, shard)}
                for number, shard in sources.items()
            ]
            targets = []
            for low, high, shard in pieces:
                if shard not in sources.values():
                    self._check_takes(connection, shard)
                values = self._values(low=low, high=high, parents=list(sources))
                number = connection.execute(text(create), values).scalar_one()
                targets.append({"partition": number, "shard": shard, "low": low, "high": high})
            detail = {**detail, "sources": given, "targets": targets, "epoch": given[0]["epoch"]}
            first = given[0]["partition"]
            return self._insert(connection, first, sources[first], pieces[0][2], step, detail)

    def _check_unchanged(self, connection: Connection, partition: int, source: str) -> int:
        """Lock a placement and return its epoch."""
        placement = connection.execute(
            text(
                "SELECT shard, epoch FROM shardpool_catalog.placement "
                "WHERE keyspace = :keyspace AND partition = :partition FOR UPDATE"
            ),
            self._values(partition=partition),
        ).one_or_none()
        if placement is None or placement.shard != source:
            place = "is no partition any more" if placement is None else f"has moved to {placement.shard} meanwhile"
            raise PreflightFailed([f"partition {partition} {place}"])
        query = f"SELECT 1 FROM shardpool_catalog.move WHERE keyspace = :keyspace AND state = 'running' AND {CONCERNS}"
        if connection.execute(text(query), self._values(partition=partition)).first() is not None:
            raise MoveInProgress(f"partition {partition} is being moved by another process")
        return int(placement.epoch)

    def _check_not_building(self, connection: Connection) -> None:
        """Every partition is read while a column becomes unique: they stay where they are."""
        found = unique_build_in(connection, self._catalog.keyspace)
        if found is not None:
            raise PreflightFailed([f"{'.'.join(found)} is being made unique: wait for it, or `shardpool unique drop`"])

    def _check_takes(self, connection: Connection, target: str) -> None:
        state = connection.execute(
            text("SELECT state FROM shardpool_catalog.shard WHERE keyspace = :keyspace AND name = :target FOR SHARE"),
            self._values(target=target),
        ).scalar_one_or_none()
        if state != "active":
            raise PreflightFailed([f"shard {target} is {state or 'gone'}"])

    def _insert(
        self, connection: Connection, partition: int, source: str, target: str, step: str, detail: Mapping[str, Any]
    ) -> MoveRecord:
        insert = (
            "INSERT INTO shardpool_catalog.move (keyspace, partition, source, target, step, state, detail) "
            "VALUES (:keyspace, :partition, :source, :target, :step, 'running', CAST(:detail AS jsonb)) RETURNING id"
        )
        values = self._values(partition=partition, source=source, target=target, step=step, detail=json.dumps(detail))
        number = int(connection.execute(text(insert), values).scalar_one())
        epoch = int(detail["epoch"])
        return MoveRecord(number, self._catalog.keyspace, partition, source, target, 1, step, epoch, detail)

    def reserve(self) -> int:
        """Return the number of a move that may be entered later."""
        query = "SELECT nextval(pg_get_serial_sequence('shardpool_catalog.move', 'id'))"
        with self._bounded() as connection:
            return int(connection.execute(text(query)).scalar_one())

    def take_over(self, record: MoveRecord) -> MoveRecord:
        """Become the move's only process: what earlier attempts write into the catalog is refused from now on."""
        query = (
            "UPDATE shardpool_catalog.move SET attempt = attempt + 1, updated_at = now(), detail = detail - 'until' "
            "WHERE id = :id AND attempt = :attempt AND state = 'running' "
            "RETURNING id, partition, source, target, attempt, step, detail"
        )
        with self._bounded() as connection:
            row = connection.execute(text(query), {"id": record.id, "attempt": record.attempt}).first()
        if row is None:
            raise taken_over(record)
        return self._record(row)
