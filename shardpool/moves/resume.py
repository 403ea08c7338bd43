"""Going on with an online move whose process is gone, rather than beginning again."""

from __future__ import annotations

from shardpool.moves.capture import is_whole
from shardpool.moves.journal import Journal
from shardpool.moves.ledger import read_ledger
from shardpool.moves.move import Move
from shardpool.moves.progress import Meter
from shardpool.moves.record import MoveRecord
from shardpool.moves.runner import MoveReport, run_move
from shardpool.moves.servers import Servers, end_sessions
from shardpool.moves.settle import check_not_arrived, settle
from shardpool.moves.steps import LOCK, RESUME, RETRY, is_committed, names_of, steps_to_undo
from shardpool.router import Router


def resume(router: Router, record: MoveRecord, meter: Meter) -> MoveReport | None:
    """Finish an abandoned move if enough of it is left, else settle it and return None. The caller holds its lock.

    Raise as `run_move` and `settle` do.
    """
    names = names_of(record.mode)
    begun = RESUME in names and names.index(record.step) >= names.index(RESUME)
    if not record.online or is_committed(record.mode, record.step) or not begun:
        settle(router, record, meter)
        return None
    record = Journal(router.catalog).take_over(record)
    for shard in record.shards:
        end_sessions(router, record, shard)
    servers = Servers(router, record)
    try:
        whole = _make_ready(Move(router, record, servers, meter))
    finally:
        servers.close()
    if not whole:
        settle(router, record, meter)
        return None
    return run_move(router, record, meter, first=RESUME)


def _make_ready(move: Move) -> bool:
    """Undo a cutover that was under way. Return whether all is there that the steps from RESUME on need."""
    record = move.record
    check_not_arrived(move)
    names = names_of(record.mode)
    if names.index(record.step) >= names.index(LOCK):
        for step in steps_to_undo(record.mode, record.step, back_to=LOCK):
            step.undo(move)
        move.journal.enter(record, RETRY, moving=False)
    whole = True
    for leg in move.by_target:
        whole &= read_ledger(leg.servers.target, leg.record) is not None
        leg.servers.target.rollback()
    for leg in move.by_source:
        whole &= is_whole(leg)
    return whole
