"""Shard -> Engine. Each shard has one SQLAlchemy engine over one `ShardPool`; everything that talks to a shard borrows
from that pool, so that its limits hold for statements, sessions, scatters, loads and moves alike.

A pooled connection rests in autocommit mode with the settings of its start-up packet. Single statements lease it as it
is and leave no trace (their search path is ``SET LOCAL``); every longer use ends with rollback and ``DISCARD ALL``.
"""

from shardpool.engines.pool import PoolStats, ShardPool
from shardpool.engines.registry import Engines

__all__ = ["Engines", "PoolStats", "ShardPool"]
