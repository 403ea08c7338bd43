"""Applying schema changes: every statement on every shard, or on none.

The log of statements in the catalog is written ahead ('running'); then each shard executes the whole script in one
transaction; when all have succeeded, all commit; then the log says 'done' and the tables are made known. A process that
dies before the first commit has changed nothing. One that dies between the commits leaves a mark on the shards that
have committed, ``<keyspace>.shardpool_ddl``, by which the next change, or `SchemaManager.resume`, finishes the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import psycopg2
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from shardpool.catalog import Catalog
from shardpool.ddl.history import History
from shardpool.ddl.introspect import read_tables, search_path
from shardpool.ddl.log import (
    Recorded,
    add_effects,
    bring_forward,
    count_running,
    forget,
    mark_done,
    read_log,
    record,
    running_move,
)
from shardpool.ddl.parallel import on_all
from shardpool.ddl.refusals import SchemaBusy, refuse
from shardpool.ddl.replay import phase, prove_replay
from shardpool.ddl.rules import plan_statements
from shardpool.ddl.script import parse_script
from shardpool.ddl.session import ShardSession, first_line
from shardpool.ddl.statement import DdlStatement, Effect, Scope
from shardpool.errors import CatalogUnavailable, SchemaError
from shardpool.topology.shard_map import Partition, Topology
from shardpool.topology.tables import Sharded, Table, TableKind

if TYPE_CHECKING:
    from shardpool.engines import Engines

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StatementReport:
    """What became of one statement. 'unchanged': it was applied before."""

    statement: str
    scope: Scope
    state: Literal["applied", "unchanged"]


@dataclass(frozen=True)
class _Findings:
    """What the servers said after all statements had run, before anything was committed."""

    tables: Mapping[str, Table | None]
    functions: frozenset[str]
    forward: frozenset[int]
    implied: Sequence[Effect]
