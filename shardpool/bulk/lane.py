"""One shard's part of a load: a borrowed connection with one transaction, which may be prepared."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg2

from shardpool.bulk.decision import finish_prepared, prepared_gid
from shardpool.bulk.translate import refused
from shardpool.errors import ShardpoolError
from shardpool.faults import fault_point
from shardpool.two_phase.names import DURABLE, SESSIONS, enter_gate

if TYPE_CHECKING:
    from shardpool.engines import Engines

log = logging.getLogger(__name__)


class Lane:
    """A transaction on one shard. `finished` once it is committed or rolled back. Prepared, it is known as `gid`."""

    def __init__(self, engines: Engines, shard: str, load: str) -> None:
        self.shard = shard
        self.gid = prepared_gid(load, shard)
        self._keyspace = load.split(":")[2]
        self._token = load[-32:]
        self.finished = False
        self.may_be_prepared = False
        self._engines = engines
        self._borrowed = ExitStack()
        self.connection: Any = self._borrowed.enter_context(engines.borrow(shard))

    def begin(self) -> int:
        """Begin the transaction; return the server's max_prepared_transactions."""
        try:
            self.connection.tpc_begin(self.gid)
            with self.connection.cursor() as cursor:
                # A slow source must not end the transaction. Of a deadlock with transactions over several shards these
                # are the victims: their names are greater.
                cursor.execute(
                    f"SET LOCAL application_name TO '{SESSIONS}-{self._token}'; "
                    "SET LOCAL idle_in_transaction_session_timeout = 0; "
                    "SELECT current_setting('max_prepared_transactions')::int"
                )
                return int(cursor.fetchone()[0])
        except psycopg2.Error as error:
            raise refused(error, self.shard, gone=bool(self.connection.closed)) from error

    def prepare(self) -> None:
        self.may_be_prepared = True
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(f"{DURABLE}; {enter_gate(self._keyspace)}")
            self.connection.tpc_prepare()
        except psycopg2.Error as error:
            raise refused(error, self.shard, gone=bool(self.connection.closed)) from error
        fault_point("prepared-one")

    def commit(self) -> None:
        """Commit, in one phase or as the second one. Raise psycopg2's errors; the outcome is then unknown."""
        self.connection.tpc_commit()
        self.finished = True

    def undo(self) -> None:
        """Roll back. What cannot be reached is rolled back by its server, or by `resolve_loads` if it is prepared."""
        try:
            self.connection.tpc_rollback()
            self.finished = True
        except psycopg2.Error:
            self.release()
            if self.may_be_prepared:
                self._undo_prepared()

    def _undo_prepared(self) -> None:
        try:
            finish_prepared(self._engines, self.shard, self.gid, commit=False)
            self.finished = True
        except (ShardpoolError, psycopg2.Error) as error:
            log.warning(
                "shard %s: %s is left to resolve_loads, which will roll it back: %s", self.shard, self.gid, error
            )

    def release(self) -> None:
        """Give the connection back; one with an unfinished transaction is closed. Idempotent."""
        if not self.finished:
            self.connection.close()
        self._borrowed.close()
