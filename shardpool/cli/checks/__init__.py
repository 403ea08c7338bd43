"""What ``doctor`` looks at: the facts are read once (`facts`), then judged by small functions (`CHECKS`).

Each function is given all facts and yields findings; they run in the order of the tuple. A finding is about one shard
or about the whole keyspace.
"""

from __future__ import annotations

from collections.abc import Iterator

from shardpool.cli.checks.facts import ClusterFacts, read_facts
from shardpool.cli.checks.finding import Finding
from shardpool.cli.checks.keyspace import drift, loads, moves, references, reservations, schema_changes, shard_map
from shardpool.cli.checks.servers import (
    clocks,
    collations,
    encodings,
    identities,
    prepared_transactions,
    reachable,
    time_zones,
    versions,
    wal_levels,
)

CHECKS = (
    reachable,
    versions,
    encodings,
    collations,
    time_zones,
    prepared_transactions,
    wal_levels,
    clocks,
    identities,
    shard_map,
    schema_changes,
    moves,
    loads,
    drift,
    references,
    reservations,
)


def examine(facts: ClusterFacts) -> Iterator[Finding]:
    """Yield the findings of all checks."""
    for check in CHECKS:
        yield from check(facts)


__all__ = ["CHECKS", "ClusterFacts", "Finding", "examine", "read_facts"]
