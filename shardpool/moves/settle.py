"""Settling a move that stopped half way: forward if it is past its commit point, else back.

The same code serves a move that failed in its own process and one whose process is gone. First the move is taken over
in the catalog, which is what excludes everybody else; then the sessions of earlier attempts are ended on both servers,
which settles their open transactions; then the catalog's word decides.
"""

from __future__ import annotations

from typing import Literal

import psycopg2
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from shardpool import faults
from shardpool.errors import CatalogUnavailable, OwnershipAmbiguous, ShardUnavailable
from shardpool.moves.journal import Journal
from shardpool.moves.layout import schemas_of
from shardpool.moves.move import Move
from shardpool.moves.progress import Meter
from shardpool.moves.record import MoveRecord
from shardpool.moves.servers import Servers, end_sessions
from shardpool.moves.steps import is_committed, steps_to_run, steps_to_undo
from shardpool.router import Router

#: What may pass when a server is back.
UNREACHABLE = (ShardUnavailable, CatalogUnavailable, psycopg2.OperationalError, psycopg2.InterfaceError)

Outcome = Literal["completed", "undone"]


def settle(
    router: Router, record: MoveRecord, meter: Meter | None = None, patience: float = 0.0
) -> tuple[Outcome, Move]:
    """Complete or undo a move, and say which. The caller holds the move's lock.

    For *patience* seconds it waits for servers that it needs. Raise `MoveTakenOver` if somebody else settles the move,
    `OwnershipAmbiguous` if the servers contradict the catalog, and `ShardUnavailable`, `CatalogUnavailable` or the
    driver's OperationalError for servers that do not answer: then try again later.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(UNREACHABLE),
        stop=stop_after_delay(patience),
        wait=wait_exponential(multiplier=0.1, max=1.0),
        reraise=True,
    )
    journal = Journal(router.catalog)
    if retrying(journal.ended, record) is None:
        record = retrying(journal.take_over, record)
    return retrying(_settle, router, record, meter or Meter(record.partition, None))


def _settle(router: Router, record: MoveRecord, meter: Meter) -> tuple[Outcome, Move]:
    state = Journal(router.catalog).ended(record)
    if state is not None:  # the catalog's answer to this attempt's last word was lost
        return "completed" if state == "done" else "undone", Move(router, record, Servers(router, record), meter)
    unreachable = {shard for shard in record.shards if not _sessions_ended(router, record, shard)}
    servers = Servers(router, record, unreachable)
    move = Move(router, record, servers, meter)
    try:
        if is_committed(record.mode, record.step):
            complete(move)
            return "completed", move
        undo(move)
        return "undone", move
    except psycopg2.Error:
        move.journal.check(record)  # whoever takes it over ends our sessions
        raise
    finally:
        servers.close()


def complete(move: Move) -> None:
    """Run the steps after the commit point, from the one that was about to run."""
    check_given_away(move)
    for step in steps_to_run(move.record.mode, move.record.step):
        move.journal.enter(move.record, step.name)
        faults.fault_point(f"move:{step.name}:before")
        step.run(move)
        faults.fault_point(f"move:{step.name}:after")


def undo(move: Move) -> None:
    """Undo the steps from the one that was about to run backwards."""
    check_not_arrived(move)
    for step in steps_to_undo(move.record.mode, move.record.step):
        step.undo(move)
    move.journal.close(move.record, "aborted")


def _sessions_ended(router: Router, record: MoveRecord, shard: str) -> bool:
    try:
        end_sessions(router, record, shard)
    except ShardUnavailable:
        return False
    return True


def check_given_away(move: Move) -> None:
    """Raise `OwnershipAmbiguous` if a source still serves what the catalog gives to others."""
    for leg in move.by_source:
        _check_absent(leg, leg.record.schema, leg.record.source)


def check_not_arrived(move: Move) -> None:
    """Raise `OwnershipAmbiguous` if a target serves what the catalog leaves with the sources."""
    for leg in move.by_target:
        _check_absent(leg, leg.record.result_schema, leg.record.target)


def _check_absent(move: Move, schema: str, shard: str) -> None:
    record = move.record
    try:
        connection = move.servers.on(shard)
    except ShardUnavailable:
        return  # it is asked for again where it is needed
    if schemas_of(connection, [schema]):
        owner = record.target if shard == record.source else record.source
        raise OwnershipAmbiguous(
            f"{record}: the catalog says that {owner} owns the partition, but shard {shard} has a schema {schema} "
            f"too. Compare its rows with those of {record.schema}, {record.moved} or {record.incoming} on the two "
            f"shards, and rename or drop the wrong one; then recover again"
        )
    connection.rollback()
