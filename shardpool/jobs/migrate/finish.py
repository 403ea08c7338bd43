"""After the copy: catch up, verify, switch over. What is done is read from the database itself, so it can be resumed.

The keyspace is verified against a snapshot while writers go on: whatever the snapshot shows is applied first. Under the
locks of the switch only the last changes are applied, and verified row by row: the pause does not grow with the tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from shardpool.bulk.database_source import DATABASE
from shardpool.bulk.digest import Digest, digest_in
from shardpool.ddl.introspect import read_columns
from shardpool.errors import JobRefused
from shardpool.faults import fault_point
from shardpool.jobs.digest import compare, digests_of
from shardpool.jobs.following import following_moves
from shardpool.jobs.keyed_rows import Key, read_rows
from shardpool.jobs.migrate.apply import Changes, apply_changes, forget_changes, read_changes
from shardpool.jobs.migrate.capture import fence, is_fenced, lock_and, stop_capture
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

if TYPE_CHECKING:
    from shardpool.engines import Engines

#: Changes that are applied together; and so few of them are left to the switch. Rounds, before writers are too fast.
BATCH, FEW, ROUNDS = 20_000, 1_000, 50
#: More than there can be.
ALL = 1 << 40


@dataclass(frozen=True)
class Ends:
    """The database that is moved in, its *tables* in *schema*, and the keyspace that takes them."""

    engines: Engines
    schema: str
    tables: Mapping[str, Table]
    router: Router


def catch_up(ends: Ends) -> int:
    """Apply changes until few are left; return how many were applied. Raise `JobRefused` if writers are too fast."""
    applied = 0
    for _ in range(ROUNDS):
        changes = _apply_round(ends, BATCH, lambda cursor: None)
        applied += len(changes.ids)
        fault_point("caught-up")
        if len(changes.ids) < FEW:
            return applied
    raise JobRefused(
        f"after {ROUNDS} rounds there are still more than {FEW} changes at a time: the database is written faster than "
        "changes are applied. Resume the job at a quieter time"
    )


def verify(ends: Ends) -> dict[str, Digest]:
    """Compare all rows of both sides at one snapshot of the database, and return its digests. Raise `JobRefused`."""
    expected: dict[str, Digest] = {}
    _apply_round(ends, ALL, lambda cursor: expected.update(_compared(cursor, ends)))
    return expected


def verify_frozen(ends: Ends, first: Callable[[], object] = lambda: None) -> dict[str, Digest]:
    """The same for a database that nobody writes, and that has no capture. What the keyspace needs *first* is done
    while the database's rows are read."""
    with ends.engines.borrow(DATABASE) as connection:
        _begin_snapshot(connection)
        with connection.cursor() as cursor:
            return _compared(cursor, ends, first)


def _compared(cursor: Any, ends: Ends, first: Callable[[], object] = lambda: None) -> dict[str, Digest]:
    """Return the digests of the database at the cursor's snapshot. Raise `JobRefused` if the keyspace has others."""

    def copies() -> dict[str, list[Digest]]:
        first()
        return digests_of(ends.router, ends.tables)

    with ThreadPoolExecutor(1, thread_name_prefix="shardpool-digest") as thread:
        keyspace = thread.submit(copies)
        expected = {name: digest_in(cursor, quote(name), table.columns) for name, table in ends.tables.items()}
    compare(expected, keyspace.result())
    return expected


def switch_over(ends: Ends) -> float:
    """Apply and verify the last changes while writers wait, and refuse their writes from then on.

    Return for how many seconds writers waited. Raise `JobRefused` if a row differs; then nothing has changed for them.
    """
    with ends.engines.borrow(DATABASE) as connection:
        began = 0.0

        def last_changes() -> None:
            nonlocal began
            began = time.monotonic()
            with connection.cursor() as cursor:
                _check_definitions(cursor, ends)
                changes = read_changes(cursor, ALL)
                apply_changes(cursor, changes, ends.router, ends.tables)
                fault_point("last-changes")
                _verify_keys(cursor, changes, ends)
                forget_changes(cursor, changes)
                fence(cursor, ends.tables)

        lock_and(connection, ends.tables, last_changes)
        return time.monotonic() - began


def _check_definitions(cursor: Any, ends: Ends) -> None:
    """Raise `JobRefused` if somebody has changed columns since they were read: their values were not copied."""
    now = read_columns(cursor, ends.schema)
    changed = [name for name, table in ends.tables.items() if now.get(name) != table]
    if changed:
        raise JobRefused(
            f"columns or the primary key of {', '.join(sorted(changed))} were changed while the rows were copied: "
            "cancel the job, drop the keyspace's tables, and begin anew"
        )


def switch_back(ends: Ends) -> dict[str, Digest]:
    """Let the database be written again, as if nothing had been moved. Nothing may write the keyspace meanwhile.

    Raise `JobRefused` if the keyspace has other rows by now: they would be lost.
    """
    if not switched(ends):
        raise JobRefused("the tables were not switched over, or were switched back already")
    same = verify_frozen(ends)
    with ends.engines.borrow(DATABASE) as connection:
        stop_capture(connection, ends.tables)
    return same


def switched(ends: Ends) -> bool:
    """Whether `switch_over` was committed."""
    with ends.engines.borrow(DATABASE) as connection, connection.cursor() as cursor:
        return is_fenced(cursor, ends.tables)


def _apply_round(ends: Ends, limit: int, also: Callable[[Any], None]) -> Changes:
    """Apply changes of one snapshot; *also* sees the same one. The notes are removed when the rows are committed."""
    with ends.engines.borrow(DATABASE) as connection:
        _begin_snapshot(connection)
        with connection.cursor() as cursor:
            changes = read_changes(cursor, limit)
            apply_changes(cursor, changes, ends.router, ends.tables)
            _verify_keys(cursor, changes, ends)
            also(cursor)
        connection.rollback()
        connection.set_session(isolation_level="READ COMMITTED")
        with connection.cursor() as cursor:
            forget_changes(cursor, changes)
        connection.commit()
    return changes


def _begin_snapshot(connection: Any) -> None:
    connection.rollback()
    connection.set_session(isolation_level="REPEATABLE READ")


def _verify_keys(cursor: Any, changes: Changes, ends: Ends) -> None:
    """Compare the rows of changed keys on both sides."""
    for name, noted in changes.keys.items():
        table, keys = ends.tables[name], list(noted)
        expected = sorted(read_rows(cursor, table, keys))
        copies = following_moves(ends.router, partial(_copies, ends.router.engines, table, keys))
        if any(sorted(copy) != expected for copy in copies):
            raise JobRefused(f"the last changes of {name} did not arrive as they are: nothing was switched over")


def _copies(engines: Engines, table: Table, keys: list[Key], topology: Topology) -> list[list[bytes]]:
    """Return the rows of *keys* in the keyspace; of a reference table, those of each shard."""
    per_copy: list[list[bytes]] = []
    sharded = topology.tables[table.name].sharded
    for shard, partitions in topology.shard_map.by_shard().items():
        with engines.borrow(shard) as connection, connection.cursor() as target:
            schemas = [it.schema for it in partitions] if sharded else [topology.keyspace]
            per_copy.append([row for schema in schemas for row in read_rows(target, table, keys, schema)])
    return [[row for rows in per_copy for row in rows]] if sharded else per_copy
