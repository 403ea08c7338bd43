"""Ids of rows: 63 bits that say, from the left, when they were given, where their row is, and a number.

=========== ==== ===================================================================================================
tick        37   tenths of a second since 2024-01-01, leased by a router in the catalog: no other gives ids of it
slice       13   the first bits of the partition key's hash; a partition is a range of hashes, so that the partition
                 is found by the id alone, wherever it moved, and also after it was split or merged
number      13   counts within tick and slice
=========== ==== ===================================================================================================
"""

from __future__ import annotations

from shardpool.topology.key import HASH_SPACE
from shardpool.topology.shard_map import Placement, ShardMap

TICK_BITS, SLICE_BITS, NUMBER_BITS = 37, 13, 13
#: Seconds per tick, and the Unix time of tick 0.
TICK = 0.1
EPOCH = 1_704_067_200
#: The tick of 2026-01-01: no id was given before. What a sequence has counted would be of the first days of 2024.
FIRST_TICK = 631_584_000
SLICE_SIZE = HASH_SPACE >> SLICE_BITS
NUMBERS = 1 << NUMBER_BITS


def make_id(tick: int, position: int, number: int) -> int:
    """Return the id of a row whose key's hash is *position*."""
    return ((tick << SLICE_BITS) | (position // SLICE_SIZE)) << NUMBER_BITS | number


def time_of(identity: int) -> float:
    """Return when an id was given, as Unix time: its router leased the tick at most a second before."""
    return EPOCH + (identity >> (SLICE_BITS + NUMBER_BITS)) * TICK


def placements_of(identity: int, shard_map: ShardMap) -> tuple[Placement, ...]:
    """Return where the row of an id may be: one partition, or those few that share the id's slice.

    Raise `ValueError` for what cannot be an id: its row may be anywhere.
    """
    first = make_id(FIRST_TICK, 0, 0)
    if isinstance(identity, bool) or not first <= identity < 1 << (TICK_BITS + SLICE_BITS + NUMBER_BITS):
        raise ValueError(
            f"{identity!r} is no id of next_id(), which are integers from {first} to 2**63 - 1 and carry their "
            "partition: ask for its row by query(), or by execute() and its key"
        )
    low = (identity >> NUMBER_BITS) % (1 << SLICE_BITS) * SLICE_SIZE
    found = [shard_map.at(low)]
    while found[-1].partition.high < low + SLICE_SIZE:
        found.append(shard_map.at(found[-1].partition.high))
    return tuple(found)
