"""The commit point, and what follows it: from here on a move only goes forward."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Literal

from shardpool.errors import OwnershipAmbiguous, ShardUnavailable
from shardpool.moves.create import drop_schema
from shardpool.moves.journal import Leftover
from shardpool.moves.layout import schemas_of
from shardpool.moves.move import Move
from shardpool.moves.reverse import hand_over, way_back
from shardpool.topology.names import quote

log = logging.getLogger(__name__)


def flip(move: Move) -> None:
    """Give the partition to the target in the catalog. The step after this one is entered in the same transaction."""
    # Until now the partition can be given back; it should not be given to a server that is down.
    for leg in move.by_target:
        record, target = leg.record, leg.servers.target
        if not schemas_of(target, [record.incoming]):
            raise OwnershipAmbiguous(f"{record}: schema {record.incoming} has disappeared from {record.target}")
        target.rollback()
    move.journal.flip(move.record, "switch_on", {"rows": move.meter.rows, "bytes": move.meter.bytes})


def switch_on(move: Move) -> None:
    """Give the target's schema its name: the partition is served again."""
    record, target = move.record, move.servers.target
    name = record.result_schema
    found = schemas_of(target, [name, record.incoming])
    if found == {record.incoming}:
        with target.cursor() as cursor:
            cursor.execute(f"ALTER SCHEMA {quote(record.incoming)} RENAME TO {quote(name)}")
    elif found != {name}:
        raise OwnershipAmbiguous(
            f"{record} is to be completed, and the catalog gives the partition to {record.target}, but that shard has "
            f"{' and '.join(sorted(found)) or 'neither'}, where it should have exactly one of {name} and "
            f"{record.incoming}. Look there, and for {record.moved} on {record.source}"
        )
    target.commit()
    move.pause.ended = time.monotonic()
    move.journal.serve(record)


def release(move: Move) -> None:
    """Drop what is left on the source, or leave that to a later recovery, and end the move.

    If a way back is wanted, what is left is kept for it instead.
    """
    record = move.record
    try:
        if hand_over(move):
            return
    except ShardUnavailable as error:
        log.warning("%s: there will be no way back: %s", record, error)
    gone: list[str] = []
    for leg, shard, schema in _old_schemas(move):
        try:
            connection = leg.servers.source if shard == "source" else leg.servers.target
            # Triggers on the old tables keep their functions: these are not tried for in vain.
            kept = record.mode == "trigger" and schema == leg.record.capture and leg.record.moved not in gone
            dropped = not kept and drop_schema(connection, schema)
        except ShardUnavailable:
            dropped = False
        if dropped:
            gone.append(schema)
        else:
            name = leg.record.source if shard == "source" else leg.record.target
            move.leftovers.append(Leftover(record.id, name, schema))
    move.journal.close(record, "done", forget=gone)


def end(move: Move) -> None:
    """End a move that leaves nothing on the source."""
    move.journal.close(move.record, "done")


def _old_schemas(move: Move) -> Iterator[tuple[Move, Literal["source", "target"], str]]:
    """Yield (leg, side, schema) of all that is not needed any more; old tables before their triggers' functions."""
    for leg in move.by_source:
        yield leg, "source", leg.record.moved
        if leg.record.online:
            yield leg, "source", leg.record.capture
    for leg in move.by_target:
        if leg.record.online:
            yield leg, "target", leg.record.ledger
    back = way_back(move.record)
    if back is not None:
        yield move, "target", back.capture
        yield move, "source", back.incoming
        yield move, "source", back.ledger
