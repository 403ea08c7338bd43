"""The transactions of a router: the part of its face that is about several statements, or several shards, as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from shardpool.executor.background import Resolver
from shardpool.executor.retrying import run_transaction
from shardpool.executor.snapshot import Snapshot
from shardpool.executor.statements import MAX_RETRIES
from shardpool.executor.transaction import Isolation, Surroundings, Transaction
from shardpool.two_phase import Outcome, PreparedBranch, Resolved, outcome, prepared_branches
from shardpool.two_phase.names import parse_id
from shardpool.two_phase.resolving import ABANDONED

T = TypeVar("T")


class Transactional:
    """What `Router` inherits. `_around` and `_resolver` are its to set, and to close."""

    _around: Surroundings
    _resolver: Resolver

    def transaction(
        self, *, isolation: Isolation = "READ COMMITTED", read_only: bool = False, retries: int = MAX_RETRIES
    ) -> Transaction:
        """Begin a transaction over any shards; a context manager that commits at its end, or rolls back.

        *retries*: how often it follows a partition that had moved before anything was done. Leaving the block raises
        `sqlalchemy.exc` errors, `ShardUnavailable`, `CannotPrepare`, with everything rolled back; or `InDoubt`.
        Isolation levels hold on each shard: a reader may see a transaction of several shards on one a moment earlier
        than on another, and SERIALIZABLE transactions that meet on several shards may not be serialisable: of two that
        each read what the other writes, on different shards, both commit.
        """
        return Transaction(self._around, isolation, read_only, retries)

    def run(
        self,
        work: Callable[[Transaction], T],
        *,
        isolation: Isolation = "READ COMMITTED",
        read_only: bool = False,
        retries: int = 10,
    ) -> T:
        """Call *work* with a transaction, commit, and return its result; again after serialisation failures, deadlocks,
        moved partitions and other errors that left nothing behind, up to *retries* times. Raises as `transaction`."""
        return run_transaction(lambda: self.transaction(isolation=isolation, read_only=read_only), work, retries)

    def snapshot(self, *, timeout: float = 10.0, shared: str | None = None) -> Snapshot:
        """Begin a read-only transaction that sees all shards at one cut: of a transaction over several shards all or
        nothing. A context manager; its `query` and `execute` read, its `export` lets others read the same.

        *shared* is what another snapshot's `export` returned. Waits *timeout* seconds at most for transactions that are
        committing. Raise `SnapshotTimeout`; statements raise `StalePlacement` for a partition that moved before it was
        read.
        """
        return Snapshot(self._around, timeout, shared)

    def outcome(self, txid: str) -> Outcome:
        """Return what became of a transaction that raised `InDoubt`, or whose process died: "committed", "aborted", or
        "undecided" while its commit is under way. Raise `ShardUnavailable` while the shard that knows is not there."""
        return outcome(self._around.engines, parse_id(txid))

    def transactions_in_doubt(self) -> list[PreparedBranch]:
        """Return what is prepared on the shards, and not yet committed or rolled back. Raise `ShardUnavailable`."""
        shard_map = self._around.current.value.shard_map
        names = sorted(shard_map.shards)
        return [it for name in names for it in prepared_branches(self._around.engines, shard_map.keyspace, name)]

    def resolve_transactions(self, older_than: float = ABANDONED) -> list[Resolved]:
        """Finish transactions that were prepared more than *older_than* seconds ago, and left behind. Routers that
        listen do so every few seconds, and moves before they begin."""
        return self._resolver.resolve(older_than)
