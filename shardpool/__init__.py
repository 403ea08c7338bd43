"""shardpool: PostgreSQL sharding inside a Python process, over plain PostgreSQL servers."""

from shardpool.config import Config, parse_config, read_config
from shardpool.router import Router
from shardpool.topology.tables import Reference, Sharded

__all__ = ["Config", "Reference", "Router", "Sharded", "parse_config", "read_config"]
__version__ = "0.1.0"
