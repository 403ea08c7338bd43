"""The commit point, and what follows it: from here on a move only goes forward."""

from __future__ import annotations

import logging
import time

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
    record, target = move.record, move.servers.target
    # Until now the partition can be given back; it should not be given to a server that is down.
    if not schemas_of(target, [record.incoming]):
        raise OwnershipAmbiguous(f"{record}: schema {record.incoming} has disappeared from {record.target}")
    target.rollback()
    move.journal.flip(record, "switch_on", {"rows": move.meter.rows, "bytes": move.meter.bytes})


def switch_on(move: Move) -> None:
    """Give the target's schema its name: the partition is served again."""
    record, target = move.record, move.servers.target
    found = schemas_of(target, [record.schema, record.incoming])
    if found == {record.incoming}:
        with target.cursor() as cursor:
            cursor.execute(f"ALTER SCHEMA {quote(record.incoming)} RENAME TO {quote(record.schema)}")
    elif found != {record.schema}:
        raise OwnershipAmbiguous(
            f"{record} is to be completed, and the catalog gives the partition to {record.target}, but that shard has "
            f"{' and '.join(sorted(found)) or 'neither'}, where it should have exactly one of {record.schema} and "
            f"{record.incoming}. Look there, and for {record.moved} on {record.source}"
        )
    target.commit()
    move.switched_at = time.monotonic()
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
    back = way_back(record)
    schemas = [(record.source, record.moved)]
    if record.online:
        schemas += [(record.source, record.capture), (record.target, record.ledger)]
    if back is not None:
        schemas += [(back.source, back.capture), (back.target, back.incoming), (back.target, back.ledger)]
    gone = []
    for shard, schema in schemas:
        try:
            connection = move.servers.source if shard == record.source else move.servers.target
            # The triggers on the old tables keep their functions: these are not tried for in vain.
            dropped = (schema != record.capture or record.moved in gone) and drop_schema(connection, schema)
        except ShardUnavailable:
            dropped = False
        if dropped:
            gone.append(schema)
        else:
            move.leftovers.append(Leftover(record.id, shard, schema))
    move.journal.close(record, "done", forget=gone)
