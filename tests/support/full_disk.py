"""A server whose disk is full, as far as its tables can tell: files may not grow beyond a size."""

from __future__ import annotations

import resource

from shardpool.local import LocalCluster

#: More than a segment of the write-ahead log.
LIMIT = 18 << 20


def restart(cluster: LocalCluster, name: str, largest: int | None) -> None:
    """Start a server anew, with a limit to the size of its files, which it inherits."""
    cluster.stop(name)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before[1] if largest is None else largest, before[1]))
    try:
        cluster.start(name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
