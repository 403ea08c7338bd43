"""Changing partitions: split, merge, pin and unpin, online, by the steps of a move.

The old partitions are retired and the new ones get numbers that no range ever had: a router whose map is old finds no
schema of the name that it knows, rather than one with other rows.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress

from shardpool import faults
from shardpool.errors import CatalogUnavailable, PreflightFailed
from shardpool.moves.change_plan import ChangePlan
from shardpool.moves.checks import check_move
from shardpool.moves.journal import Journal
from shardpool.moves.locks import GRACE, keyspace_locked, move_locked
from shardpool.moves.modes import Wanted, choose_mode
from shardpool.moves.progress import Callback, Meter
from shardpool.moves.record import Mode, MoveRecord
from shardpool.moves.recovery import recover_moves, settle_partition
from shardpool.moves.resume import resume
from shardpool.moves.runner import MoveReport, run_move
from shardpool.moves.steps import first_of
from shardpool.router import Router


def change_partitions(
    router: Router, plan: ChangePlan, *, mode: Wanted = "auto", progress: Callback | None = None
) -> MoveReport:
    """Carry out a plan of `plan_split`, `plan_merge`, `plan_pin` or `plan_unpin` while everybody goes on.

    Writers of the partitions wait for a moment at the end, as at a move; *mode* is as there, but not "block". A change
    that was left half way is gone on with if it is the same one. If it fails, it is undone; after its commit point it
    is completed instead. Raise as `move_partition` does, and `PreflightFailed` if the partitions have moved since the
    plan was made.
    """
    numbers = [number for number, _ in plan.sources]
    recover_moves(router, leave=set(numbers))
    router.resolve_transactions()
    meter = Meter(numbers[0], progress)
    with ExitStack() as locks:
        for number in sorted(numbers):
            locks.enter_context(move_locked(router, number, patience=GRACE))
        try:
            resumed = _resume(router, plan, meter)
            return resumed if resumed is not None else _begin(router, plan, mode, meter, locks)
        finally:
            with suppress(CatalogUnavailable):  # then the router will hear of it later
                router.refresh()


def _resume(router: Router, plan: ChangePlan, meter: Meter) -> MoveReport | None:
    """Go on with the same change if it was left half way; settle what else was left."""
    for number, _ in plan.sources:
        for record in Journal(router.catalog).running(number):
            if _same(record, plan) and (report := resume(router, record, meter)) is not None:
                return report
        settle_partition(router, number)
    return None


def _same(record: MoveRecord, plan: ChangePlan) -> bool:
    sources = tuple((it["partition"], it["shard"]) for it in record.detail.get("sources", ()))
    pieces = [(it["low"], it["high"], it["shard"]) for it in record.detail.get("targets", ())]
    return sources == plan.sources and pieces == [(it.low, it.high, it.shard) for it in plan.pieces]


def _begin(router: Router, plan: ChangePlan, wanted: Wanted, meter: Meter, locks: ExitStack) -> MoveReport:
    router.refresh()
    meter.enter("preflight")
    mode, reason = _check(router, plan, wanted)
    meter.enter("register")
    with keyspace_locked(router):
        faults.fault_point("move:register:before")
        pieces = [(it.low, it.high, it.shard) for it in plan.pieces]
        detail = {"kind": plan.kind, "mode": mode, "reason": reason}
        record = Journal(router.catalog).register_change(dict(plan.sources), pieces, first_of(mode), detail)
        faults.fault_point("move:register:after")
    for number in record.bounds:
        # Nobody could have known the new numbers before.
        locks.enter_context(move_locked(router, number, patience=GRACE))
    return run_move(router, record, meter)


def _check(router: Router, plan: ChangePlan, wanted: Wanted) -> tuple[Mode, str]:
    """Return the mode and its reason. Raise `PreflightFailed` with everything that is in the way."""
    if wanted == "block":
        raise PreflightFailed([f'a {plan.kind} has no mode "block": take "trigger" or "logical"'])
    failures: list[str] = []
    chosen: list[tuple[Mode, str]] = []
    for number, source in plan.sources:
        found = router.shard_map.heirs(number)
        if found[0].partition.id != number:
            raise PreflightFailed([f"partition {number} was changed meanwhile: make a new plan"])
        for target in dict.fromkeys(piece.shard for piece in plan.pieces):
            try:
                mode, reason = choose_mode(router, number, source, target, wanted)
                chosen.append((mode, reason))
                failures += [reason] if mode == "block" else []
                check_move(router, number, source, target)
            except PreflightFailed as error:
                failures += error.failures
    if failures:
        raise PreflightFailed(list(dict.fromkeys(failures)))
    return next((it for it in chosen if it[0] == "trigger"), chosen[0])  # what all sources can have
