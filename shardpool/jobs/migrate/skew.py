"""What if: how evenly the rows of a table would lie over the partitions, if it were split by a column."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from shardpool.topology.key import KEY_TYPES, hash_key
from shardpool.topology.names import quote
from shardpool.topology.shard_map import ShardMap

#: Keys that are fetched at once.
BATCH = 10_000


@dataclass(frozen=True)
class Skew:
    """`largest` over `mean` rows of a partition is 1.0 if all are alike; `hottest` is the commonest key's share."""

    table: str
    key: str
    rows: int
    keys: int
    largest: int
    mean: float
    hottest: float


def measure_skew(connection: Any, table: str, key: str, column_type: str, shard_map: ShardMap) -> Skew:
    """Count all rows per key in the database, and per partition here."""
    types = (KEY_TYPES[column_type.partition("(")[0]],)
    partitions: Counter[int] = Counter()
    keys = hottest = 0
    with connection.cursor("shardpool_skew") as cursor:
        cursor.itersize = BATCH
        name = quote(key)
        cursor.execute(f"SELECT {name}, count(*) FROM {quote(table)} WHERE {name} IS NOT NULL GROUP BY 1")
        for value, count in cursor:
            plain = bytes(value) if isinstance(value, memoryview) else value
            partitions[shard_map.at(hash_key(plain, types)).partition.id] += count
            keys, hottest = keys + 1, max(hottest, count)
    rows = partitions.total()
    mean = rows / len(shard_map.placements)
    return Skew(table, key, rows, keys, max(partitions.values(), default=0), mean, hottest / rows if rows else 0.0)
