"""Reading all shards at one cut: a transaction over several shards is seen as a whole or not at all.

Such a transaction takes a shared lock of the *gate*, an empty table, on each of its shards before it is decided, and
keeps it until it is committed there. A snapshot locks the gate of all shards against them, in the order of the shards'
names as they do; then none is between its first commit and its last. It reads once on every shard, which fixes what it
will see there, and opens the gates again. The lock is taken below a savepoint, which is rolled back: that lets it go,
and keeps the snapshot.

Transactions that write one shard do not enter it: of two of them, one after the other, the later may be seen alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from psycopg2 import errors
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from shardpool.errors import ExecutionError, SnapshotTimeout
from shardpool.executor.transaction import Surroundings, Transaction
from shardpool.two_phase import resolve
from shardpool.two_phase.names import gate_table

#: How long one attempt keeps writers waiting at most, in milliseconds, before it lets them pass.
LOCK_WAIT = 1000
#: A reader that says nothing for so long, in milliseconds, while it holds the gate loses its sessions.
FROZEN = 5000

_SETTINGS = f"SET LOCAL lock_timeout = {LOCK_WAIT}; SET LOCAL idle_in_transaction_session_timeout = {FROZEN}; "
_OPEN = (
    "ROLLBACK TO SAVEPOINT shardpool_gate; RELEASE SAVEPOINT shardpool_gate; SET LOCAL lock_timeout TO DEFAULT; "
    "SET LOCAL idle_in_transaction_session_timeout TO DEFAULT"
)


class Snapshot(Transaction):
    """What `Router.snapshot` gives: a read-only transaction on all shards. `export` shares what it sees."""

    def __init__(self, around: Surroundings, timeout: float, shared: str | None) -> None:
        super().__init__(around, "REPEATABLE READ", read_only=True, retries=0)
        self._shared: Mapping[str, str] = json.loads(shared) if shared is not None else {}
        try:
            if shared is None:
                self._pass_the_gate(timeout)
            else:
                for shard in sorted(self._shared):
                    self.on_shard(shard, "SELECT 1", {}, [], False)
        except BaseException:
            self.rollback()
            raise

    def export(self) -> str:
        """Return a text with which other threads and processes open `Router.snapshot(shared=...)` on the same cut, for
        as long as this one is open."""
        names = {
            shard: self.on_shard(shard, "SELECT pg_export_snapshot()", {}, [], False).scalar_one()
            for shard in sorted(self.shards)
        }
        return json.dumps(names)

    def begin_on(self, shard: str) -> str:
        found = self._shared.get(shard)
        begin = super().begin_on(shard)
        return begin if found is None else f"{begin}; SET TRANSACTION SNAPSHOT '{found}'"

    def _pass_the_gate(self, timeout: float) -> None:
        began = time.monotonic()
        attempts = Retrying(
            retry=retry_if_exception_type(_Closed),
            stop=stop_after_delay(timeout),
            wait=wait_random(0.01, 0.2),
            reraise=True,
        )
        try:
            attempts(self._attempt)
        except _Closed as error:
            waited = time.monotonic() - began
            raise SnapshotTimeout(
                f"transactions were committing on shard {error.shard!r} all the time, for {waited:.1f} s; if one is in "
                "doubt, `shardpool transactions resolve` ends it"
            ) from error.__cause__

    def _attempt(self) -> None:
        shard_map = self.topology.shard_map
        shards = sorted(shard_map.shards)
        lock = f"SAVEPOINT shardpool_gate; LOCK TABLE {gate_table(shard_map.keyspace)} IN SHARE MODE"
        try:
            for shard in shards:
                self.lock(shard, _SETTINGS + lock)
        except _Closed:
            self.begin_again()
            resolve(self.around.engines, shard_map.keyspace, shards)
            raise
        for statement in ("SELECT 1", _OPEN):
            for shard in shards:
                self.on_shard(shard, statement, {}, [], False)

    def lock(self, shard: str, statement: str) -> None:
        try:
            self.on_shard(shard, statement, {}, [], False)
        except Exception as error:
            if isinstance(error.__cause__, errors.LockNotAvailable | errors.DeadlockDetected):
                raise _Closed(shard) from error
            raise


class _Closed(ExecutionError):
    """The gate of a shard could not be locked in time."""

    def __init__(self, shard: str) -> None:
        super().__init__(shard)
        self.shard = shard
