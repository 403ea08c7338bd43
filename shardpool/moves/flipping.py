"""The commit point of a move in the catalog, and how it ends as the beginning of the way back."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, text

from shardpool import faults
from shardpool.errors import OwnershipAmbiguous
from shardpool.moves.guarded import Guarded
from shardpool.moves.record import MoveRecord


class Flipping(Guarded):
    """Gives partitions to their targets."""

    def flip(self, record: MoveRecord, next_step: str, detail: Mapping[str, Any]) -> None:
        """Give the partition to the target: the commit point.

        In the same transaction the copy ceases to be something to clean up, and the source's schema becomes it.
        """
        step = (
            "UPDATE shardpool_catalog.move SET step = :step, detail = detail || CAST(:detail AS jsonb) WHERE id = :id"
        )
        with self.guarded(record) as connection:
            epoch = self._catalog.bump(connection)
            if record.kind == "move":
                self._give(connection, record, epoch)
            else:
                self._replace(connection, record, epoch)
            connection.execute(text(step), {"id": record.id, "step": next_step, "detail": json.dumps(dict(detail))})
            for leg in record.legs:
                self._forget(connection, record.id, leg.incoming)
            if record.kind != "renumber":  # which leaves no old side
                for schema, shard in {leg.moved: leg.source for leg in record.legs}.items():
                    self._note(connection, record.id, shard, schema)
            faults.fault_point("move:flip:inside")

    def _give(self, connection: Connection, record: MoveRecord, epoch: int) -> None:
        query = (
            "UPDATE shardpool_catalog.placement SET shard = :target, epoch = :epoch "
            "WHERE keyspace = :keyspace AND partition = :partition AND shard = :source AND epoch = :old"
        )
        values = self._values(
            partition=record.partition, source=record.source, target=record.target, old=record.epoch, epoch=epoch
        )
        if connection.execute(text(query), values).rowcount != 1:
            raise _placed_elsewhere(record, record)

    def _replace(self, connection: Connection, record: MoveRecord, epoch: int) -> None:
        """Retire the sources, and place their heirs, which are not served until they are switched on."""
        take = (
            "DELETE FROM shardpool_catalog.placement "
            "WHERE keyspace = :keyspace AND partition = :partition AND shard = :source AND epoch = :old"
        )
        state = "UPDATE shardpool_catalog.partition SET state = :state WHERE keyspace = :keyspace AND id = :partition"
        place = (
            "INSERT INTO shardpool_catalog.placement (keyspace, partition, shard, epoch, moving) "
            "VALUES (:keyspace, :partition, :target, :epoch, true)"
        )
        for leg in {leg.partition: leg for leg in record.legs}.values():
            values = self._values(partition=leg.partition, source=leg.source, old=leg.epoch)
            if connection.execute(text(take), values).rowcount != 1:
                raise _placed_elsewhere(record, leg)
            connection.execute(text(state), self._values(partition=leg.partition, state="retired"))
        for leg in {leg.result: leg for leg in record.legs}.values():
            connection.execute(text(state), self._values(partition=leg.result, state="active"))
            connection.execute(text(place), self._values(partition=leg.result, target=leg.target, epoch=epoch))

    def hand_over(
        self, record: MoveRecord, back: MoveRecord, keep: float, forget: Collection[str], take: Collection[str]
    ) -> None:
        """End a move, and enter the one that leads back, which nobody works on, for *keep* seconds.

        *forget* are schemas that are gone or have another name, *take* those that belong to the way back from now on.
        """
        epoch = "SELECT epoch FROM shardpool_catalog.placement WHERE keyspace = :keyspace AND partition = :partition"
        insert = (
            "INSERT INTO shardpool_catalog.move (id, keyspace, partition, source, target, step, state, detail) "
            "OVERRIDING SYSTEM VALUE VALUES (:id, :keyspace, :partition, :source, :target, :step, 'running', "
            "CAST(:detail AS jsonb) || jsonb_build_object('until', extract(epoch FROM now()) + :keep))"
        )
        with self.guarded(record) as connection:
            for name in forget:
                self._forget(connection, record.id, name)
            end = "UPDATE shardpool_catalog.move SET state = 'done', updated_at = now() WHERE id = :id"
            connection.execute(text(end), {"id": record.id})
            values = self._values(
                partition=back.partition, id=back.id, source=back.source, target=back.target, step=back.step, keep=keep
            )
            detail = {**back.detail, "epoch": int(connection.execute(text(epoch), values).scalar_one())}
            connection.execute(text(insert), {**values, "detail": json.dumps(detail)})
            give = "UPDATE shardpool_catalog.cleanup SET move = :back WHERE move = :id AND name = ANY(:names)"
            connection.execute(text(give), {"id": record.id, "back": back.id, "names": list(take)})


def _placed_elsewhere(record: MoveRecord, leg: MoveRecord) -> OwnershipAmbiguous:
    return OwnershipAmbiguous(
        f"{record}: the catalog no longer places partition {leg.partition} on {leg.source} with epoch {leg.epoch}; "
        f"something other than a move changed shardpool_catalog.placement"
    )
