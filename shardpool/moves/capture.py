"""Noting which rows are written while they are copied: the keys only.

There are two ways, by the move's mode: triggers on the tables note them (`triggers`), or a replication slot tells them
(`slot`). Either says *that* a row was written, and not what became of it: `rounds` reads that from the row itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2 import errors
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from shardpool import faults
from shardpool.errors import CutoverTimeout, MoveError, ShardUnavailable
from shardpool.moves.captured import Captured, captured_tables
from shardpool.moves.create import drop_schema
from shardpool.moves.holders import read_server_writers, tenders
from shardpool.moves.journal import Leftover
from shardpool.moves.keys import KeySource, LogKeys, SlotKeys
from shardpool.moves.lock import once_writers_ended, wait_for_old
from shardpool.moves.move import Move
from shardpool.moves.parallel import Work, together
from shardpool.moves.slot import create_publication, create_slot, slot_name, trouble, untold
from shardpool.moves.triggers import check_triggers, create_triggers, logs_are_whole, silence


def capture(move: Move) -> None:
    """Begin to note writes: what is committed later than this is noted, or was there to be copied."""
    move.journal.note_object(move.record, move.record.source, move.record.capture)
    if move.record.mode == "logical":
        _follow_log(move)
    else:
        create_triggers(move)


def _follow_log(move: Move) -> None:
    """Have a slot tell what is written. The publication comes first, lest the slot tell of writes that it lacks."""
    record, source = move.record, move.servers.source
    tables = captured_tables(move, source, record.schema)
    patience = move.router.config.moves.patience
    _publish(move, tables)
    # Now no definition can change unseen.
    if found := untold(source, record.schema):
        raise MoveError(f"{record}: changes on {record.source} cannot be followed: {'; '.join(found)}")
    source.commit()
    faults.fault_point("move:capture:inside")
    name = slot_name(source, record.capture)
    try:
        together([Work(source, lambda: create_slot(source, name, patience))])
    except errors.QueryCanceled as error:
        source.rollback()
        who = ", ".join(map(str, read_server_writers(source))) or "transactions that have ended by now"
        raise CutoverTimeout(
            f"{record}: a replication slot waits for all that write on the server of {record.source}; after "
            f"{patience:g} s there were still {who}; nothing was moved"
        ) from error
    # A writer may be in the log already, where the slot begins, and be seen by snapshots only later. Whoever has
    # written ends before the lock is granted, and will be copied; whoever writes later is told.
    once_writers_ended(move, [it.table.name for it in tables])


def _publish(move: Move, tables: Sequence[Captured]) -> None:
    """Create the publication. It waits for whoever keeps the tables from being vacuumed; no writer waits behind it.

    Raise `CutoverTimeout` if one does not end; whoever was too young to be waited for is old at the second try.
    """
    record, source = move.record, move.servers.source
    for attempt in Retrying(
        retry=retry_if_exception_type(errors.LockNotAvailable), stop=stop_after_attempt(2), reraise=True
    ):
        with attempt:
            source.rollback()
            wait_for_old(source, record.schema, tenders, str(record))
            create_publication(source, record.capture, record.schema, tables)


def check_captured(move: Move) -> None:
    """Raise `MoveError` if what was written meanwhile is not known for sure."""
    if move.record.mode == "trigger":
        check_triggers(move)
        return
    reason = trouble(move.servers.stream, move.record.capture)
    move.servers.stream.commit()
    if reason is not None:
        raise MoveError(f"{move.record}: {reason}; nothing was moved")


def is_whole(move: Move) -> bool:
    """Whether a process that takes over finds all that was written meanwhile."""
    source, capture = move.servers.source, move.record.capture
    found = logs_are_whole(source, capture) if move.record.mode == "trigger" else trouble(source, capture) is None
    source.rollback()
    return found


def keys_of(move: Move, tables: Sequence[Captured]) -> KeySource:
    """Return where rounds have their keys from."""
    return LogKeys(move, tables) if move.record.mode == "trigger" else SlotKeys(move, tables)


def drop_capture(move: Move) -> None:
    """Note nothing any more. While the tables are in use, that may have to wait for a later recovery."""
    leftover = Leftover(move.record.id, move.record.source, move.record.capture)
    try:
        source = move.servers.source
        dropped = drop_schema(source, leftover.schema)
        if not dropped:
            silence(source, leftover.schema)
    except ShardUnavailable:
        dropped = False
    if dropped:
        move.journal.forget_object(leftover.move, leftover.schema)
    else:
        move.leftovers.append(leftover)
