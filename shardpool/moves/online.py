"""The steps of a move whose writers go on: they wait only for what they wrote last, whatever the partition's size.

While rows are copied, triggers note the keys of those that are written (`capture`), and rounds carry these over
(`rounds`). All rows are compared ahead, at one snapshot; under the lock only the rows of the last round are. If the
lock, or what is done under it, takes too long, it is given back, and the runner comes back to `catch_up`.
"""

from __future__ import annotations

import math
import time
from typing import Any

import psycopg2
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from shardpool import faults
from shardpool.errors import CutoverTimeout, MoveError
from shardpool.moves.capture import check_captured
from shardpool.moves.constraints import put_on, read_kept, take_off, validate_foreign_keys
from shardpool.moves.create import analyze, build_rest, create
from shardpool.moves.definition import Definition, compare_definitions, read_definition, unproven
from shardpool.moves.grants import carry_grants
from shardpool.moves.layout import TableLayout, look_into, qualified, read_layout
from shardpool.moves.ledger import create_ledger, note, read_ledger
from shardpool.moves.move import Move, each_source
from shardpool.moves.relay import Relay
from shardpool.moves.reverse import note_from_the_first
from shardpool.moves.rounds import Rounds, verify_all
from shardpool.moves.spread import Spread
from shardpool.moves.uniques import without_uniques

#: A round of so few keys is followed by the lock.
FEW = 300
#: But if it took more seconds than these, and less than half of the one before, it is followed by another: the last
#: round has to read, while writers wait, all that was written during the one before it.
QUICK = 0.02
#: After so many rounds that were not small, the writers are told to be too fast.
MOST_ROUNDS = 60


def create_online(move: Move) -> None:
    """Create the tables on the target, and the ledger beside them."""
    create_ledger(move)
    create(move)


def copy_online(move: Move) -> None:
    """Copy the tables that the ledgers do not have; each is one snapshot, and one transaction on each target."""
    meter = move.meter
    ledgers = [_ledger(leg) for leg in move.by_target]
    sources = move.by_source
    tables = [read_layout(leg.servers.source, leg.record.schema) for leg in sources]
    for leg in sources:
        leg.servers.source.rollback()
    meter.total_bytes = sum(table.heap for found in tables for table in found)
    for table in tables[0]:
        name = f"copied {table.name}"
        if all(name in ledger for ledger in ledgers):
            meter.bytes += ledgers[0][name]["bytes"]
            meter.rows += ledgers[0][name]["rows"]
        else:
            meter.rows += _copy_table(move, table)
            move.rest()
        faults.fault_point("move:copy:inside")


def _copy_table(move: Move, table: TableLayout) -> int:
    """Copy a table from all sources to all targets, and enter it into the ledgers; return its rows."""
    meter, legs = move.meter, move.by_target
    targets = [leg.servers.target for leg in legs]

    def passed(size: int) -> None:
        meter.add_bytes(size)
        move.throttle.passed(size)

    for leg in legs:
        look_into(leg.servers.target, leg.record.keyspace, leg.record.incoming)
        with leg.servers.target.cursor() as cursor:
            cursor.execute(f"TRUNCATE {qualified(leg.record.incoming, [table])}")
    before, rows = meter.bytes, 0
    spread = None
    if len(legs) > 1:
        known = move.router.topology.tables[table.name]
        spread = Spread(known, table.insertable, list(move.record.bounds.values()))
    schemas = [leg.record.incoming for leg in legs]
    with without_uniques(list(zip(targets, schemas, strict=True)), table, meter.tick):
        for leg in move.by_source:
            relay = Relay(leg.servers.source, targets, passed, meter.tick)
            rows += relay.copy(table, leg.record.schema, schemas, spread)
            leg.servers.source.rollback()
    for leg in legs:
        note(leg, f"copied {table.name}", {"rows": rows, "bytes": meter.bytes - before})
        leg.servers.target.commit()
    return rows


def finish_online(move: Move) -> None:
    """Build indexes over what was copied, prove foreign keys and triggers, and take these off again."""
    unfinished = [leg for leg in move.by_target if "finished" not in _ledger(leg)]
    if unfinished:
        # From here on a target has what one snapshot of each source had, which satisfies all constraints.
        _follow(move)
    for leg in unfinished:
        build_rest(leg)
        leg.servers.source.rollback()
        look_into(leg.servers.target, leg.record.keyspace, leg.record.incoming)
        note(leg, "finished", dict(read_kept(leg.servers.target, leg.record.incoming)))
        leg.servers.target.commit()
    _take_off(move)
    for leg in move.by_target:
        analyze(leg)


def verify_ahead(move: Move) -> None:
    """Compare all rows while writers go on: both sides as of one snapshot of each source."""
    _take_off(move)
    _follow(move)
    verify_all(move, rounds(move))


def catch_up(move: Move) -> None:
    """Carry over what was written meanwhile, until only little is left."""
    _take_off(move)
    for leg in move.by_target:
        carry_grants(leg)
        leg.servers.target.commit()
    _follow(move, closely=True)


def last_round(move: Move) -> None:
    """Carry over the rest, now that writers wait; compare it; put foreign keys and triggers in their places.

    Raise `SchemaDrift` if the source's tables are others than those that were copied.
    """
    _limit(move, max(int(move.patience * 1000), 1), source=True)
    each_source(check_captured)(move)
    for it in rounds(move):
        it.run_locked()
    _limit(move, max(int(move.patience * 1000), 1), source=False)
    there = {leg.record.result: _complete(leg) for leg in move.by_target}
    here = {leg.record.partition: _definition(leg) for leg in move.by_source}
    for leg in move.legs:
        compare_definitions(leg.record, here[leg.record.partition], there[leg.record.result])
    for leg in move.by_source:
        with leg.servers.source.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 0")


def _definition(leg: Move) -> Definition:
    """Return what the tables are while nobody can change them: somebody may have, since they were copied."""
    return unproven(read_definition(leg.servers.source, leg.record.keyspace, leg.record.schema))


def _complete(leg: Move) -> Definition:
    """Put foreign keys and triggers in their places; return what the tables are now."""
    record, target = leg.record, leg.servers.target
    look_into(target, record.keyspace, record.incoming)
    put_on(target, record.incoming, _ledger(leg)["finished"])
    found = unproven(read_definition(target, record.keyspace, record.incoming))
    note_from_the_first(leg)
    target.commit()  # it holds locks on reference tables, for which other targets on its shard wait
    return found


def _limit(move: Move, milliseconds: int, *, source: bool) -> None:
    """Limit the statements of the targets' transactions, and of the sources' too."""
    connections = [leg.servers.target for leg in move.by_target]
    connections += [leg.servers.source for leg in move.by_source if source]
    for connection in connections:
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {milliseconds}")


def validate(move: Move) -> None:
    """Validate the foreign keys that were put on without a scan, while everybody works."""
    record, target = move.record, move.servers.target
    done = read_ledger(target, record)
    target.rollback()
    if done is None:
        return  # it was validated, and the ledger dropped
    try:
        validate_foreign_keys(target, record.result_schema, done["finished"])
    except psycopg2.errors.ForeignKeyViolation as error:
        raise MoveError(
            f"{record} is complete, but a foreign key cannot be validated on {record.target}: {str(error).strip()}. "
            f"Reference tables differ between the shards: make them equal, and recover again"
        ) from error


def rounds(move: Move) -> list[Rounds]:
    """Return the rounds of this attempt, one for each source."""
    if not move.rounds:
        for leg in move.by_source:
            leg.servers.source.rollback()
            move.rounds.append(Rounds(leg))
    return move.rounds


def _follow(move: Move, closely: bool = False) -> None:
    """Do rounds until there was little to carry over; if *closely*, also until there was little to read."""
    lasted = math.inf
    for _ in range(MOST_ROUNDS):
        before, began = lasted, time.monotonic()
        count = sum(it.run() for it in rounds(move))
        lasted = time.monotonic() - began
        if count <= FEW and (not closely or lasted < QUICK or lasted >= before / 2):
            return
    raise CutoverTimeout(f"{move.record}: writers are faster than the move can follow; nothing was moved")


def _take_off(move: Move) -> None:
    """Take foreign keys and triggers off, while transactions come and go that use the reference tables.

    A foreign key is dropped on both ends: so the locks are tried for briefly, lest readers queue behind a long one.
    """
    for leg in move.by_target:
        retrying = Retrying(
            retry=retry_if_exception_type(psycopg2.errors.LockNotAvailable),
            stop=stop_after_delay(move.router.config.moves.patience),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            reraise=True,
        )
        retrying(_try_take_off, leg)


def _try_take_off(leg: Move) -> None:
    target = leg.servers.target
    try:
        look_into(target, leg.record.keyspace, leg.record.incoming)
        with target.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '100ms'")
        take_off(target, leg.record.incoming)
        target.commit()
    except psycopg2.Error:
        target.rollback()
        raise


def _ledger(move: Move) -> dict[str, Any]:
    found = read_ledger(move.servers.target, move.record)
    if found is None:
        raise MoveError(f"{move.record}: schema {move.record.ledger} has disappeared from {move.record.target}")
    return found
