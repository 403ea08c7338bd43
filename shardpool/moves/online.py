"""The steps of a move whose writers go on: they wait only for what they wrote last, whatever the partition's size.

While rows are copied, triggers note the keys of those that are written (`capture`), and rounds carry these over
(`rounds`). All rows are compared ahead, at one snapshot; under the lock only the rows of the last round are. If the
lock, or what is done under it, takes too long, it is given back, and the runner comes back to `catch_up`.
"""

from __future__ import annotations

from typing import Any

import psycopg2

from shardpool import faults
from shardpool.errors import CutoverTimeout, MoveError
from shardpool.moves.capture import check_captured
from shardpool.moves.constraints import put_on, read_kept, take_off, validate_foreign_keys
from shardpool.moves.create import analyze, build_rest, create
from shardpool.moves.grants import give_grants, read_grants
from shardpool.moves.layout import TableLayout, look_into, qualified, read_layout
from shardpool.moves.ledger import create_ledger, note, read_ledger
from shardpool.moves.move import Move
from shardpool.moves.relay import Relay
from shardpool.moves.reverse import note_from_the_first
from shardpool.moves.rounds import Rounds
from shardpool.moves.throttle import Throttle, throttled

#: A round of so few keys is followed by the lock.
FEW = 300
#: After so many rounds that were not small, the writers are told to be too fast.
MOST_ROUNDS = 60


def create_online(move: Move) -> None:
    """Create the tables on the target, and the ledger beside them."""
    create_ledger(move)
    create(move)


def copy_online(move: Move) -> None:
    """Copy the tables that the ledger does not have; each is one snapshot, and one transaction on the target."""
    record, source, meter = move.record, move.servers.source, move.meter
    copied = _ledger(move)
    tables = read_layout(source, record.schema)
    source.rollback()
    meter.total_bytes = sum(table.heap for table in tables)
    with throttled(move.router, record) as throttle:
        for table in tables:
            name = f"copied {table.name}"
            if name not in copied:
                copied[name] = _copy_table(move, table, throttle)
            else:
                meter.bytes += copied[name]["bytes"]
            meter.rows += copied[name]["rows"]
            faults.fault_point("move:copy:inside")


def _copy_table(move: Move, table: TableLayout, throttle: Throttle) -> dict[str, int]:
    """Copy a table and enter it into the ledger; return rows and bytes."""
    record, source, target, meter = move.record, move.servers.source, move.servers.target, move.meter

    def passed(size: int) -> None:
        meter.add_bytes(size)
        throttle.passed(size)

    look_into(target, record.keyspace, record.incoming)
    with target.cursor() as cursor:
        cursor.execute(f"TRUNCATE {qualified(record.incoming, [table])}")
    before = meter.bytes
    rows = Relay(source, target, passed, meter.tick).copy(table, record.schema, record.incoming)
    source.rollback()
    found = {"rows": rows, "bytes": meter.bytes - before}
    note(move, f"copied {table.name}", found)
    target.commit()
    return found


def finish_online(move: Move) -> None:
    """Build indexes over what was copied, prove foreign keys and triggers, and take these off again."""
    record, target = move.record, move.servers.target
    if "finished" not in _ledger(move):
        # From here on the target has what one snapshot of the source had, which satisfies all constraints.
        _follow(move)
        build_rest(move)
        move.servers.source.rollback()
        look_into(target, record.keyspace, record.incoming)
        note(move, "finished", dict(read_kept(target, record.incoming)))
        take_off(target, record.incoming)
        target.commit()
    analyze(move)


def verify_ahead(move: Move) -> None:
    """Compare all rows while writers go on: both sides as of one snapshot of the source."""
    _take_off(move)
    _follow(move)
    rounds(move).verify_all()


def catch_up(move: Move) -> None:
    """Carry over what was written meanwhile, until only little is left."""
    _take_off(move)
    give_grants(move.servers.target, move.record.incoming, read_grants(move.servers.source, move.record.schema))
    move.servers.target.commit()
    _follow(move)


def last_round(move: Move) -> None:
    """Carry over the rest, now that writers wait; compare it; put foreign keys and triggers in their places."""
    record, source, target = move.record, move.servers.source, move.servers.target
    milliseconds = max(int(move.patience * 1000), 1)
    for connection in (source, target):
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {milliseconds}")
    check_captured(move)
    rounds(move).run_locked()
    with target.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {milliseconds}")
    look_into(target, record.keyspace, record.incoming)
    put_on(target, record.incoming, _ledger(move)["finished"])
    note_from_the_first(move)
    target.commit()
    with source.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0")


def validate(move: Move) -> None:
    """Validate the foreign keys that were put on without a scan, while everybody works."""
    record, target = move.record, move.servers.target
    done = read_ledger(target, record)
    target.rollback()
    if done is None:
        return  # it was validated, and the ledger dropped
    try:
        validate_foreign_keys(target, record.schema, done["finished"])
    except psycopg2.errors.ForeignKeyViolation as error:
        raise MoveError(
            f"{record} is complete, but a foreign key cannot be validated on {record.target}: {str(error).strip()}. "
            f"Reference tables differ between the shards: make them equal, and recover again"
        ) from error


def rounds(move: Move) -> Rounds:
    """Return the rounds of this attempt."""
    if move.rounds is None:
        move.servers.source.rollback()
        move.rounds = Rounds(move)
    return move.rounds


def _follow(move: Move) -> None:
    for _ in range(MOST_ROUNDS):
        if rounds(move).run() <= FEW:
            return
    raise CutoverTimeout(f"{move.record}: writers are faster than the move can follow; nothing was moved")


def _take_off(move: Move) -> None:
    target = move.servers.target
    look_into(target, move.record.keyspace, move.record.incoming)
    take_off(target, move.record.incoming)
    target.commit()


def _ledger(move: Move) -> dict[str, Any]:
    found = read_ledger(move.servers.target, move.record)
    if found is None:
        raise MoveError(f"{move.record}: schema {move.record.ledger} has disappeared from {move.record.target}")
    return found
