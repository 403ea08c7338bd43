"""Which mode a move takes, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

from shardpool.ddl.owner import act_as_owner
from shardpool.errors import PreflightFailed
from shardpool.moves.holders import read_server_writers
from shardpool.moves.record import Mode
from shardpool.moves.slot import untold
from shardpool.router import Router
from shardpool.topology.names import partition_schema

Wanted = Literal["auto", "block", "trigger", "logical"]

#: A replication slot is not asked for while a transaction anywhere on the server has been writing for so many seconds.
LONG = 5.0
#: A partition that is so much of what its server writes is followed by a slot; below so many rows it does not matter.
MOST = 0.5
MANY = 1_000_000


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
    if wanted == "logical":
        if denied := _no_slot(router, partition, source):
            raise PreflightFailed([f'{reason}; or use mode "trigger"' for reason in denied])
        return "logical", "asked for"
    return _pick(router, partition, source)


def _pick(router: Router, partition: int, source: str) -> tuple[Mode, str]:
    """Have triggers note writes, but for a partition that is most of what its server writes.

    Triggers cost the partition's own writers; a slot costs none of them, but reads all that the whole server writes.
    """
    with router.engines.borrow(source) as connection:
        schema = partition_schema(router.topology.keyspace, partition)
        written, of_all = _ask(connection, _WRITTEN, schema)
    if of_all < MANY or written < MOST * of_all:
        return "trigger", "its writers go on, and wait only for the cutover"
    hot = f"of the rows that its server writes {min(written / of_all, 1):.0%} are the partition's"
    if denied := _no_slot(router, partition, source):
        return "trigger", f"{hot}, but no replication slot can tell which: {'; '.join(denied)}"
    return "logical", f"{hot}: a replication slot spares its writers the triggers"


def _no_temporary_tables(router: Router, shard: str) -> Iterator[str]:
    """Say why keys and rows could not be kept on a shard for a moment."""
    with router.engines.borrow(shard) as connection:
        if not _ask(connection, "SELECT has_database_privilege(current_database(), 'TEMPORARY')")[0]:
            yield f"the role may not create temporary tables on shard {shard} (GRANT TEMPORARY ON DATABASE)"


def _no_slot(router: Router, partition: int, source: str) -> list[str]:
    """Say why no replication slot can tell what is written."""
    with router.engines.borrow(source) as connection:
        act_as_owner(connection, router.topology.keyspace)
        level, slots, used, rights, encoding = _ask(connection, _SETTINGS)
        found = [
            f"{reason} on shard {source}"
            for reason, holds in {
                f"wal_level is {level} (ALTER SYSTEM SET wal_level = logical, and restart)": level != "logical",
                f"all {slots} replication slots are taken (max_replication_slots)": used >= slots,
                "the role may not replicate (ALTER ROLE .. REPLICATION; on RDS GRANT rds_replication)": not rights,
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


# Amazon RDS gives the right as membership of a role.
_SETTINGS = """
SELECT current_setting('wal_level'), current_setting('max_replication_slots')::int,
       (SELECT count(*) FROM pg_replication_slots), r.rolsuper OR r.rolreplication OR
       EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication' AND pg_has_role(r.oid, g.oid, 'USAGE')),
       current_setting('server_encoding')
FROM pg_roles r WHERE r.rolname = current_user
"""


_WRITTEN = """
SELECT (SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::float8
        FROM pg_stat_all_tables WHERE schemaname = %s),
       (SELECT coalesce(sum(tup_inserted + tup_updated + tup_deleted), 0)::float8 FROM pg_stat_database)
"""


def _ask(connection: Any, query: str, *values: str) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        return cast(tuple[Any, ...], cursor.fetchone())
