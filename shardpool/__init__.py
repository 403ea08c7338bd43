"""shardpool: PostgreSQL sharding inside a Python process, over plain PostgreSQL servers.

What is exported here is imported at first use, so that the command line answers ``--help`` at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shardpool.caretakers import register

if TYPE_CHECKING:
    from shardpool.config import Config, parse_config, read_config
    from shardpool.executor.ids import next_id
    from shardpool.router import Router
    from shardpool.topology.tables import Reference, Sharded

__all__ = ["Config", "Reference", "Router", "Sharded", "next_id", "parse_config", "read_config"]
__version__ = "0.1.0"

_HOMES = {
    "Config": "config",
    "Reference": "topology.tables",
    "Router": "router",
    "Sharded": "topology.tables",
    "next_id": "executor.ids",
    "parse_config": "config",
    "read_config": "config",
}


@register
def _settle_moves(router: Any) -> None:
    """Every router looks after moves whose processes have died."""
    import_module("shardpool.moves").care_for_moves(router)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'shardpool' has no attribute {name!r}")
    return getattr(import_module(f"shardpool.{_HOMES[name]}"), name)
