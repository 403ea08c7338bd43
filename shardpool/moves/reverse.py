"""The way back: after a move, the old side is kept for a while, so that going back is another cutover and not a copy.

The way back is a move of its own, from the new side to the old one, that stands where a copy is complete: its triggers
note what is written on the new side from the first moment, and the old tables are its copy. Routers keep it current
(`keeping`), until somebody moves the partition back (which goes on with it), or its time has passed (which undoes it).

Its number is reserved when the first move begins, because the names of what it needs contain it. Its triggers are
created on the new side before anybody can write there; it is entered in the catalog when the first move ends.
"""

from __future__ import annotations

from dataclasses import replace

from shardpool import faults
from shardpool.moves.captured import captured_tables
from shardpool.moves.constraints import read_kept
from shardpool.moves.create import drop_schema
from shardpool.moves.layout import look_into, schemas_of
from shardpool.moves.ledger import create_ledger_table, note_in, read_ledger
from shardpool.moves.move import Move
from shardpool.moves.record import MoveRecord
from shardpool.moves.triggers import create_capture
from shardpool.topology.names import quote


def way_back(record: MoveRecord) -> MoveRecord | None:
    """Return the move that leads back, or None if none is wanted."""
    number = record.detail.get("back")
    if number is None:
        return None
    detail = {"mode": "trigger", "reason": f"the way back of move {record.id}"}
    return replace(
        record, id=int(number), source=record.target, target=record.source, attempt=1, step="copy", detail=detail
    )


def note_from_the_first(move: Move) -> None:
    """Create the triggers of the way back on the target, in its transaction, before anybody writes there."""
    back = way_back(move.record)
    if back is not None:
        move.journal.note_object(move.record, back.source, back.capture)
        tables = captured_tables(move, move.servers.target, move.record.incoming)
        create_capture(move.servers.target, back.capture, move.record.incoming, back.partition, tables)


def undo_notes(move: Move) -> None:
    """Take back `note_from_the_first`."""
    back = way_back(move.record)
    if back is not None and drop_schema(move.servers.target, back.capture):
        move.journal.forget_object(move.record.id, back.capture)


def hand_over(move: Move) -> bool:
    """End the move so that the old tables become the copy of the way back. False: they are to be dropped.

    Idempotent: it may have been begun before.
    """
    record, back, source = move.record, way_back(move.record), move.servers.source
    if back is None:
        return False
    if not drop_schema(source, record.capture):  # its triggers are on the old tables
        return False
    found = schemas_of(source, [record.moved, back.incoming, back.ledger])
    source.rollback()
    if record.moved in found:
        move.journal.note_object(record, record.source, back.incoming)
        move.journal.note_object(record, record.source, back.ledger)
        look_into(source, record.keyspace, record.moved)
        tables = captured_tables(move, source, record.moved)
        kept = read_kept(source, record.moved)
        create_ledger_table(source, back)
        for it in tables:
            note_in(source, back, f"copied {it.table.name}", {"rows": 0, "bytes": 0})
        note_in(source, back, "finished", dict(kept))
        with source.cursor() as cursor:
            cursor.execute(f"ALTER SCHEMA {quote(record.moved)} RENAME TO {quote(back.incoming)}")
        source.commit()
    elif back.incoming not in found or read_ledger(source, back) is None:
        source.rollback()
        return False  # somebody has dropped it
    source.rollback()
    faults.fault_point("move:hand_over:inside")
    gone = [record.moved, record.capture]
    if drop_schema(move.servers.target, record.ledger):
        gone.append(record.ledger)
    move.journal.hand_over(
        record,
        back,
        float(record.detail["keep"]),
        forget=gone,
        take=[back.incoming, back.ledger, back.capture],
    )
    return True
