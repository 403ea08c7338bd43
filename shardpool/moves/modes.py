"""Which mode a move takes, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

from shardpool.errors import PreflightFailed
from shardpool.moves.holders import read_server_writers
from shardpool.moves.record import Mode
from shardpool.moves.slot import untold
from shardpool.router import Router
from shardpool.topology.names import partition_schema

Wanted = Literal["auto", "block", "trigger", "logical"]

#: A replication slot is not asked for while a transaction anywhere on the server has been writing for so many seconds.
LONG = 5.0


def choose_mode(router: Router, partition: int, source: str, target: str, wanted: Wanted) -> tuple[Mode, str]:
    """Return the mode and the reason. Raise `PreflightFailed` if the wanted one cannot be had, `ShardUnavailable`."""
    if wanted == "block":
        return "block", "asked for"
    online = [reason for shard in (source, target) for reason in _no_temporary_tables(router, shard)]
    if online and wanted != "auto":
        raise PreflightFailed(online)
    if online:
        return "block", "; ".join(online)
    if wanted == "trigger":
        return "trigger", "asked for"
    if wanted == "auto":
        return "trigger", "its writers go on, and wait only for the cutover"
    if denied := _no_slot(router, partition, source):
        raise PreflightFailed([f'{reason}; or use mode "trigger"' for reason in denied])
    return "logical", "asked for"


def _no_temporary_tables(router: Router, shard: str) -> Iterator[str]:
    """Say why keys and rows could not be kept on a shard for a moment."""
    with router.engines.borrow(shard) as connection:
        if not _ask(connection, "SELECT has_database_privilege(current_database(), 'TEMPORARY')")[0]:
            yield f"the role may not create temporary tables on shard {shard} (GRANT TEMPORARY ON DATABASE)"


def _no_slot(router: Router, partition: int, source: str) -> list[str]:
    """Say why no replication slot can tell what is written."""
    with router.engines.borrow(source) as connection:
        level, slots, used, rights, encoding = _ask(connection, _SETTINGS)
        found = [
            f"{reason} on shard {source}"
            for reason, holds in {
                f"wal_level is {level} (ALTER SYSTEM SET wal_level = logical, and restart)": level != "logical",
                f"all {slots} replication slots are taken (max_replication_slots)": used >= slots,
                "the role may not replicate (ALTER ROLE .. REPLICATION)": not rights,
                "the encoding is SQL_ASCII, which does not say what texts mean": encoding == "SQL_ASCII",
            }.items()
            if holds
        ]
        schema = partition_schema(router.topology.keyspace, partition)
        found += [f"{reason}, on shard {source}" for reason in untold(connection, schema)]
        found += [
            f"a replication slot would wait for {holder}, which writes on the server of shard {source}"
            for holder in read_server_writers(connection, LONG)
        ]
        return found


_SETTINGS = """
SELECT current_setting('wal_level'), current_setting('max_replication_slots')::int,
       (SELECT count(*) FROM pg_replication_slots), r.rolsuper OR r.rolreplication, current_setting('server_encoding')
FROM pg_roles r WHERE r.rolname = current_user
"""


def _ask(connection: Any, query: str) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cast(tuple[Any, ...], cursor.fetchone())
