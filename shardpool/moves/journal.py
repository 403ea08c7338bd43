"""The moves in the catalog: every change that a move makes there, each accepted only from the move's current attempt.

The row of a move is locked and compared before anything is changed (`Journal.guarded`): a process that was frozen, and
whose move was meanwhile taken over, finds a higher attempt there and can change nothing any more. This is also what
makes the flip, the commit point of a move, a compare-and-set.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, text

from shardpool import faults
from shardpool.catalog import Catalog
from shardpool.errors import MoveInProgress, MoveTakenOver, OwnershipAmbiguous, PreflightFailed
from shardpool.moves.record import MoveRecord

_RECORD = "SELECT id, partition, source, target, attempt, step, detail FROM shardpool_catalog.move "
#: Whether a move takes from, or gives to, the partition.
_CONCERNS = """(partition = :partition
    OR detail->'sources' @> jsonb_build_array(jsonb_build_object('partition', CAST(:partition AS int)))
    OR detail->'targets' @> jsonb_build_array(jsonb_build_object('partition', CAST(:partition AS int))))"""


@dataclass(frozen=True)
class Leftover:
    """A schema that nobody uses any more, on a shard that did not let it be dropped yet."""

    move: int
    shard: str
    schema: str

    def __str__(self) -> str:
        return f"schema {self.schema} on shard {self.shard}"


class Journal:
    """The moves of one keyspace. Methods raise `CatalogUnavailable`, and `MoveTakenOver` where they take a record."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    # -- reading ----------------------------------------------------------------------------------------------------

    def running(self, partition: int | None = None) -> list[MoveRecord]:
        """Return the moves that are neither done nor aborted: those that concern one partition, or all."""
        query = _RECORD + (
            "WHERE keyspace = :keyspace AND state = 'running' "
            f"AND (CAST(:partition AS int) IS NULL OR {_CONCERNS}) ORDER BY id"
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

    # -- beginning and ending ---------------------------------------------------------------------------------------

    def register(self, partition: int, source: str, target: str, step: str, detail: Mapping[str, Any]) -> MoveRecord:
        """Begin a move: it is in the catalog when this returns.

        The caller holds the catalog's lock "topology", so that the tables stay as they are. Raise `MoveInProgress` if
        the partition moves already, `PreflightFailed` if its placement or the target changed since they were checked.
        """
        with self._bounded() as connection:
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
        query = f"SELECT 1 FROM shardpool_catalog.move WHERE keyspace = :keyspace AND state = 'running' AND {_CONCERNS}"
        if connection.execute(text(query), self._values(partition=partition)).first() is not None:
            raise MoveInProgress(f"partition {partition} is being moved by another process")
        return int(placement.epoch)

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
            raise _taken_over(record)
        return self._record(row)

    def close(self, record: MoveRecord, state: str, forget: Collection[str] = ()) -> None:
        """End a move as 'done' or 'aborted'. *forget* are names of schemas that are known to be gone."""
        with self.guarded(record) as connection:
            for name in forget:
                self._forget(connection, record.id, name)
            query = "UPDATE shardpool_catalog.move SET state = :state, updated_at = now() WHERE id = :id"
            connection.execute(text(query), {"id": record.id, "state": state})
            if state == "aborted":
                self._set_moving(connection, [leg.partition for leg in record.legs], False)

    # -- the steps --------------------------------------------------------------------------------------------------

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

    def reserve(self) -> int:
        """Return the number of a move that may be entered later."""
        query = "SELECT nextval(pg_get_serial_sequence('shardpool_catalog.move', 'id'))"
        with self._bounded() as connection:
            return int(connection.execute(text(query)).scalar_one())

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

    def kept(self, record: MoveRecord) -> bool:
        """Whether this is a way back whose time has not passed."""
        if record.until is None:
            return False
        with self._catalog.begin() as connection:
            now = connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        return float(now) < record.until

    def serve(self, record: MoveRecord) -> None:
        """Tell routers that the partition no longer moves."""
        with self.guarded(record) as connection:
            self._set_moving(connection, [record.result], False)

    # -- inside -----------------------------------------------------------------------------------------------------

    @contextmanager
    def guarded(self, record: MoveRecord) -> Iterator[Connection]:
        """A transaction in which this attempt is, and stays, the current one. Raise `MoveTakenOver` otherwise."""
        query = text(
            "SELECT 1 FROM shardpool_catalog.move "
            "WHERE id = :id AND attempt = :attempt AND state = 'running' FOR UPDATE"
        )
        with self._bounded() as connection:
            if connection.execute(query, {"id": record.id, "attempt": record.attempt}).first() is None:
                raise _taken_over(record)
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


def _placed_elsewhere(record: MoveRecord, leg: MoveRecord) -> OwnershipAmbiguous:
    return OwnershipAmbiguous(
        f"{record}: the catalog no longer places partition {leg.partition} on {leg.source} with epoch {leg.epoch}; "
        f"something other than a move changed shardpool_catalog.placement"
    )


def _taken_over(record: MoveRecord) -> MoveTakenOver:
    return MoveTakenOver(f"{record} was taken over by another process, which finishes or undoes it")
