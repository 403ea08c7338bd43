"""Holding the copy of a move back, for the sake of everybody else on its servers."""

from __future__ import annotations

from contextlib import AbstractContextManager

from shardpool.bulk.throttle import Throttle, watching
from shardpool.moves.record import MoveRecord
from shardpool.router import Router

__all__ = ["Throttle", "throttled"]


def throttled(router: Router, record: MoveRecord) -> AbstractContextManager[Throttle]:
    """Watch the servers that take part while the block copies between them, if the configuration sets limits."""
    return watching(router.engines, record.shards, router.config.moves, str(record))
