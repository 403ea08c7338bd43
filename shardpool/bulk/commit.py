"""Committing a load on all its shards, or on none.

One shard commits plainly. Several prepare, then the catalog takes the decision, then each commits what it prepared. A
process that dies before the decision leaves transactions that `resolve_loads` rolls back; after it, ones that it
commits. Names of the fault points for tests: ``prepared-one``, ``prepared``, ``decided``, ``committed-one``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg2

from shardpool.bulk.decision import decide_commit, decision, finish_prepared
from shardpool.bulk.lane import Lane
from shardpool.bulk.lanes import Lanes
from shardpool.bulk.translate import refused
from shardpool.catalog import Catalog
from shardpool.errors import LoadError, LoadInDoubt, OutcomeUnknown, ShardpoolError
from shardpool.faults import fault_point

if TYPE_CHECKING:
    from shardpool.engines import Engines


def commit_load(lanes: Lanes, catalog: Catalog, engines: Engines) -> None:
    """Commit the rows of all lanes. Raise what the shards raise, with nothing committed, or

    - `OutcomeUnknown`: the one shard of the load broke its connection during COMMIT;
    - `LoadInDoubt`: committed or undecided, with shards that must be finished by `resolve_loads`.
    """
    opened = list(lanes.opened.values())
    if len(opened) <= 1:
        for lane in opened:
            _commit_alone(lane)
        return
    with catalog.begin():
        pass  # A catalog that is down is better found before the shards prepare.
    for lane in opened:
        lanes.submit(lane.shard, Lane.prepare)
    lanes.drain()
    lanes.stop()
    fault_point("prepared")
    lanes.may_undo = decided = False
    try:
        decide_commit(catalog, lanes.load)
        decided = True
        fault_point("decided")
        commit_prepared(opened, engines, lanes.load)
    except LoadInDoubt:
        raise
    except LoadError:
        lanes.may_undo = True
        raise
    except KeyboardInterrupt as interrupt:
        # Perhaps the catalog has the decision already; if not, it is against the load.
        if decided or decision(catalog, lanes.load):
            commit_prepared(opened, engines, lanes.load)
            interrupt.add_note(f"load {lanes.load} was committed on all shards")
        else:
            lanes.may_undo = True
        raise


def _commit_alone(lane: Lane) -> None:
    try:
        lane.commit()
    except psycopg2.Error as error:
        if lane.connection.closed:
            raise OutcomeUnknown(lane.shard, str(error).strip()) from error
        raise refused(error, lane.shard, gone=False) from error


def commit_prepared(lanes: list[Lane], engines: Engines, load: str) -> None:
    """Commit on all shards where it is not yet done. Raise `LoadInDoubt` if some could not be told."""
    left: dict[str, Exception] = {}
    for lane in lanes:
        if not lane.finished:
            try:
                _commit_second_phase(lane, engines)
            except (ShardpoolError, psycopg2.Error) as error:
                left[lane.shard] = error
            fault_point("committed-one")
    if left:
        reasons = "; ".join(f"{shard}: {str(error).strip()}" for shard, error in left.items())
        raise LoadInDoubt(
            f"load {load} is decided: commit. These shards could not be told and will be finished by resolve_loads, "
            f"until then they do not show its rows: {reasons}"
        ) from next(iter(left.values()))


def _commit_second_phase(lane: Lane, engines: Engines) -> None:
    try:
        lane.commit()
    except psycopg2.Error:
        lane.release()
        finish_prepared(engines, lane.shard, lane.gid, commit=True)
        lane.finished = True
