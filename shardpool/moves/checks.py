"""The checks before a move: nothing has been created when they fail, and all that fail are told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg2

from shardpool.ddl.log import read_log
from shardpool.errors import PoolTimeout, PreflightFailed, ShardUnavailable
from shardpool.moves.holders import read_holders
from shardpool.moves.layout import read_layout, schemas_of
from shardpool.moves.server_facts import differences, read_facts
from shardpool.provision import identity_of
from shardpool.router import Router
from shardpool.topology.names import partition_schema, quote


@dataclass(frozen=True)
class Checked:
    """What the checks look at: a move that is planned, and a connection to each of its shards."""

    router: Router
    partition: int
    source_name: str
    target_name: str
    source: Any
    target: Any

    @property
    def schema(self) -> str:
        return partition_schema(self.router.topology.keyspace, self.partition)


def check_move(router: Router, partition: int, source: str, target: str) -> None:
    """Run all checks. Raise `PreflightFailed` with everything that is in the way."""
    failures: list[str] = []
    with ExitStack() as stack:
        connections = []
        for shard in (source, target):
            try:
                connections.append(stack.enter_context(router.engines.borrow(shard)))
            except (ShardUnavailable, PoolTimeout) as error:
                failures.append(str(error))
        if not failures:
            checked = Checked(router, partition, source, target, *connections)
            for check in CHECKS:
                try:
                    failures += check(checked)
                except psycopg2.Error as error:
                    failures.append(f"{check.__name__.replace('_', ' ')}: {str(error).strip()}")
                for connection in connections:
                    connection.rollback()
    if failures:
        raise PreflightFailed(failures)
