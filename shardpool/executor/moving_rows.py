"""Writes over several partitions, beside transactions that give a row of the table a new partition key.

One PostgreSQL follows a row to what another transaction has made of it. Here the row is deleted in one partition and
inserted in another: a write that has looked into the other one before would never see it. So the two wait for each
other: a write that looks into several partitions shares an advisory lock on each of their shards, and whoever moves
rows has it alone on the shards between which they move. Writes that name the key need none: the row is not theirs any
more. Nor do stricter levels than READ COMMITTED, where PostgreSQL tells that the row was deleted meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from shardpool.planner.writes import Steps
from shardpool.topology.names import literal

if TYPE_CHECKING:
    from shardpool.executor.transaction import Transaction


def beside_movers(transaction: Transaction, steps: Steps) -> Steps:
    """*steps* that share the locks of their tables, if they look into several partitions: in the messages that are sent
    anyway, before the statements take their snapshots."""
    tables = sorted({steps.table, *steps.changed} - {""})
    if not tables or steps.new or len(steps.steps) == 1 or transaction.isolation != "READ COMMITTED":
        return steps
    locks = "".join(f"{_lock(transaction, table, '_shared')}; " for table in tables)
    locked, found = set(), []
    for step in steps.steps:
        found.append(step if step.shard in locked else replace(step, sql=locks + step.sql))
        locked.add(step.shard)
    return replace(steps, steps=tuple(found))


def keep_out(transaction: Transaction, table: str, shards: Iterable[str], *, moving: bool) -> None:
    """Wait on *shards* for those that move rows of *table*; *moving*: and for all that look into several partitions."""
    if transaction.isolation == "READ COMMITTED":
        lock = _lock(transaction, table, "" if moving else "_shared")
        for shard in sorted(set(shards)):
            transaction.on_shard(shard, lock, {}, [], False)


def _lock(transaction: Transaction, table: str, how: str) -> str:
    name = literal(f"shardpool rows {transaction.topology.keyspace}.{table}").replace("%", "%%")
    return f"SELECT pg_catalog.pg_advisory_xact_lock{how}(pg_catalog.hashtextextended({name}, 0))"
