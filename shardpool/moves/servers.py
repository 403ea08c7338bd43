"""The server connections of a move, and how another process gets rid of them.

A connection is usable only after these three, in this order: it was opened, it got the move's name, the catalog said
that this attempt is still the current one. Recovery raises the attempt first and then ends all sessions of that name.
So a process that was frozen has no connection left on which it could do anything, and cannot get a new one.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from copy import copy
from typing import Any

import psycopg2
from psycopg2 import errors

from shardpool.ddl.owner import act_as_owner
from shardpool.engines.interrupt import AS_LOGGED_IN
from shardpool.errors import MoveError, ShardUnavailable
from shardpool.moves.journal import Journal
from shardpool.moves.record import MoveRecord
from shardpool.router import Router

#: How long a session that is to end may take for it, in milliseconds.
END_TIMEOUT = 10_000

#: All that could end a long copy, or make it differ, whatever the defaults of servers and roles are. What was committed
#: must not be lost by a crash, lest the partition be on both sides or on none. What is read under a lock must not be
#: from a snapshot older than the lock. Sessions that hold locks are ended by their server when their client says
#: nothing for half a minute: a frozen mover does not stop writers for ever.
SETTINGS = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "synchronous_commit": "on",
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "lock_timeout": "10s",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "30s",
    "row_security": "off",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
}

# Settings that a version does not have are left out.
_SET = (
    "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS s (name, value) "
    "WHERE current_setting(name, true) IS NOT NULL"
)


class Servers:
    """Connections to sources and targets, opened at first use and kept until `close`.

    `source` and `target` are those of one leg; `leg` gives the same for another. Shards in *unreachable* raise
    `ShardUnavailable`: their sessions of earlier attempts could not be ended.
    """

    def __init__(self, router: Router, record: MoveRecord, unreachable: Collection[str] = ()) -> None:
        self._router = router
        self._record = record
        self._unreachable = unreachable
        # By shard and schema: a source and a target may be on the same shard.
        self._open: dict[tuple[str, str], Any] = {}
        self._borrowed = ExitStack()

    def leg(self, record: MoveRecord) -> Servers:
        """Return the servers of a leg; its connections are shared with, and closed by, this."""
        found = copy(self)
        found._record = record
        return found

    @property
    def source(self) -> Any:
        return self._connection(self._record.source, self._record.schema)

    @property
    def target(self) -> Any:
        return self._connection(self._record.target, self._record.incoming)

    @property
    def stream(self) -> Any:
        """A second connection to the source, beside the transaction that `source` is in."""
        return self._connection(self._record.source, self._record.capture)

    def on(self, shard: str) -> Any:
        """Return a connection to one of the two shards."""
        return self.source if shard == self._record.source else self.target

    def lost(self) -> list[str]:
        """Return the shards to which a connection broke."""
        return [shard for (shard, _), connection in self._open.items() if connection.closed]

    def rollback(self) -> None:
        """End all transactions, lest a server end a session that is idle in one."""
        for connection in self._open.values():
            connection.rollback()

    def close(self) -> None:
        """Close the connections: whatever transaction they are in is rolled back by its server."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()
        self._borrowed.close()

    def _connection(self, shard: str, schema: str) -> Any:
        if shard in self._unreachable:
            raise ShardUnavailable(shard, f"the sessions of {self._record} could not be ended there")
        if (shard, schema) not in self._open:
            connection = self._borrowed.enter_context(self._router.engines.borrow(shard))
            self._open[shard, schema] = connection
            configure(connection, self._record.session_name)
            act_as_owner(connection, self._record.keyspace)
            connection.commit()
            Journal(self._router.catalog).check(self._record)
        return self._open[shard, schema]


def configure(connection: Any, name: str) -> None:
    """Name a session, and give it the settings for copying and comparing."""
    settings = {"application_name": name, **SETTINGS}
    with connection.cursor() as cursor:
        cursor.execute(_SET, (list(settings), list(settings.values())))
    connection.commit()


def end_sessions(router: Router, record: MoveRecord, shard: str) -> None:
    """End what any process has open on *shard* for this move, and wait until it is gone.

    Raise `ShardUnavailable`, or `MoveError` if a session does not end in time.
    """
    ours = (
        "FROM pg_stat_activity WHERE application_name = %s AND datname = current_database() AND pid <> pg_backend_pid()"
    )
    try:
        with router.engines.borrow(shard) as connection, connection.cursor() as cursor:
            end = f"{AS_LOGGED_IN}SELECT pg_terminate_backend(pid, %s) {ours}"
            cursor.execute(end, (END_TIMEOUT, record.session_name))
            connection.commit()
            # One that was gone just before counts as not ended: asked again, it is not there.
            cursor.execute(f"SELECT pid {ours}", (record.session_name,))
            alive = [pid for (pid,) in cursor.fetchall()]
    except errors.InsufficientPrivilege as error:
        raise MoveError(
            f"{record}: its sessions on shard {shard} belong to a role that this one may not end: settle it as the "
            f"role that began it, or GRANT pg_signal_backend ({str(error).strip()})"
        ) from error
    except psycopg2.Error as error:
        raise ShardUnavailable(shard, str(error).strip()) from error
    if alive:
        raise MoveError(f"{record}: sessions {alive} on shard {shard} do not end; try again later")
