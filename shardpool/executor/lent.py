"""A transaction's connections in the place of pools: whatever is scattered over them is a part of the transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.pool import ConnectionPoolEntry

from shardpool.engines import ShardPool
from shardpool.engines.right_of_way import Passage

if TYPE_CHECKING:
    from shardpool.executor.transaction import Transaction

#: Stands for a merge node apart; no shard has such a name.
APART = "the merge node"


@dataclass(frozen=True)
class LentPools:
    """As much of `Engines` as a scatter uses.

    *entered*: the connections are inside of the transaction and its savepoints before they are lent. *home*: the shard
    of which a merge node apart is a connection more.
    """

    transaction: Transaction
    entered: bool
    home: str = ""

    def pool(self, shard: str) -> Any:
        if shard == APART:
            return _PoolBeside(self.transaction.around.engines.pool(self.home), self.transaction.passage)
        return _LentPool(self.transaction, shard, self.entered)


@dataclass(frozen=True)
class _PoolBeside:
    """A pool, for who holds connections already."""

    pool: ShardPool
    passage: Passage

    def lease(self) -> ConnectionPoolEntry:
        return self.pool.lease(self.passage)

    def give_back(self, entry: ConnectionPoolEntry) -> None:
        self.pool.give_back(entry)

    def discard(self, entry: ConnectionPoolEntry) -> None:
        self.pool.discard(entry)


@dataclass(frozen=True)
class _LentPool:
    transaction: Transaction
    shard: str
    entered: bool

    def lease(self) -> _Lent:
        if self.entered:
            return _Lent(self.transaction.enter(self.shard))
        return _Lent(self.transaction.branch(self.shard).connection)

    def give_back(self, entry: _Lent) -> None:
        """It stays with the transaction."""

    def discard(self, entry: _Lent) -> None:
        entry.dbapi_connection.close()


@dataclass(frozen=True)
class _Lent:
    dbapi_connection: Any
