"""Giving a partition a new number where it is: statements that know the old one only fail as stale, for ever."""

from __future__ import annotations

from contextlib import ExitStack

from shardpool.moves.journal import Journal
from shardpool.moves.locks import GRACE, keyspace_locked, move_locked
from shardpool.moves.progress import Meter
from shardpool.moves.record import Mode
from shardpool.moves.recovery import settle_partition
from shardpool.moves.runner import run_move
from shardpool.moves.steps import first_of
from shardpool.router import Router
from shardpool.topology.shard_map import Placement

MODE: Mode = "rename"


def settle_left(router: Router) -> None:
    """Settle what a process that is gone has left half way. Raise `MoveInProgress` if it is not, and as `settle`."""
    for record in Journal(router.catalog).running():
        if record.kind == "renumber":
            with move_locked(router, record.partition, patience=GRACE):
                settle_partition(router, record.partition)
    router.refresh()


def renumber(router: Router, placement: Placement) -> float:
    """Give a partition, which nobody else moves, a new number. Return for how many seconds its writers waited.

    Raise as `run_move` does: `CutoverTimeout` if long transactions use the partition.
    """
    partition = placement.partition
    pieces = [(partition.low, partition.high, placement.shard)]
    detail = {"kind": "renumber", "mode": MODE, "reason": "a column becomes unique"}
    with ExitStack() as locks:
        locks.enter_context(move_locked(router, partition.id, patience=GRACE))
        with keyspace_locked(router):
            sources = {partition.id: placement.shard}
            record = Journal(router.catalog).register_change(sources, pieces, first_of(MODE), detail)
        for number in record.bounds:
            locks.enter_context(move_locked(router, number, patience=GRACE))
        try:
            return run_move(router, record, Meter(partition.id, None)).pause
        finally:
            router.refresh()
