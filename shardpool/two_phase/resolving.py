"""Finishing what coordinators left behind: any process may do it, at any time, several at once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from psycopg2 import errors

from shardpool.engines import Engines
from shardpool.errors import NoSuchShard
from shardpool.two_phase.asking import outcome
from shardpool.two_phase.names import TransactionId, gid_prefix, parse_gid, records_table
from shardpool.two_phase.sessions import UNREACHABLE, finish_prepared, run, session

log = logging.getLogger(__name__)

#: So old, in seconds, a prepared transaction must be before it is taken for left behind: a live one is just slow.
ABANDONED = 5.0
#: Records are kept so long, in seconds, for those who were not told the outcome.
RETENTION = 86_400.0

# The view shows the whole server's; only those of this database can be finished here.
_PREPARED = """
SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8, owner::text
FROM pg_prepared_xacts
WHERE database = current_database() AND starts_with(gid, %s)
AND prepared <= clock_timestamp() - make_interval(secs => %s)
ORDER BY prepared
"""


@dataclass(frozen=True)
class PreparedBranch:
    """A part of a transaction that is prepared on a shard: neither committed nor rolled back. `age` in seconds."""

    shard: str
    gid: str
    transaction: TransactionId
    age: float
    owner: str


@dataclass(frozen=True)
class Resolved:
    """A part that `resolve` finished."""

    shard: str
    gid: str
    committed: bool


def prepared_branches(engines: Engines, keyspace: str, shard: str, older_than: float = 0.0) -> list[PreparedBranch]:
    """Return what is prepared on a shard for this keyspace, the oldest first.

    Raise `ShardUnavailable`, `PoolTimeout` or psycopg2's errors.
    """
    with session(engines, shard) as connection:
        rows = run(connection, _PREPARED, (gid_prefix(keyspace), older_than))
    found = [(gid, parse_gid(gid), age, owner) for gid, age, owner in rows]
    return [PreparedBranch(shard, gid, owned, age, owner) for gid, owned, age, owner in found if owned is not None]


def recorded(engines: Engines, transaction: TransactionId) -> bool | None:
    """Return the decision as its decider has it, None if there is none yet. Unlike `outcome`, this settles nothing.

    Raise `NoSuchShard`, `ShardUnavailable`, `PoolTimeout` or psycopg2's errors.
    """
    query = f"SELECT committed FROM {records_table(transaction.keyspace)} WHERE id = %s"
    with session(engines, transaction.decider) as connection:
        rows = run(connection, query, (str(transaction),))
    return bool(rows[0][0]) if rows else None


def resolve(engines: Engines, keyspace: str, shards: Iterable[str], older_than: float = ABANDONED) -> list[Resolved]:
    """Finish what was prepared more than *older_than* seconds ago, as its decider says. Return what was finished.

    What cannot be finished now (a shard that does not answer, a coordinator that is committing) is left for the next
    time, with a warning in the log.
    """
    done = []
    for shard in shards:
        try:
            branches = prepared_branches(engines, keyspace, shard, older_than)
        except UNREACHABLE as error:
            log.info("shard %s was not asked for transactions in doubt: %s", shard, _line(error))
            continue
        for branch in branches:
            found = _finish(engines, branch)
            if found is not None:
                done.append(found)
    return done


def _finish(engines: Engines, branch: PreparedBranch) -> Resolved | None:
    try:
        decided = outcome(engines, branch.transaction)
        if decided == "undecided":
            log.warning("%s on shard %s: its coordinator has not ended yet", branch.gid, branch.shard)
            return None
        finish_prepared(engines, branch.shard, branch.gid, commit=decided == "committed")
    except (*UNREACHABLE, NoSuchShard) as error:
        log.warning("%s on shard %s could not be finished: %s", branch.gid, branch.shard, _line(error))
        return None
    log.info("%s on shard %s was found in doubt: %s", branch.gid, branch.shard, decided)
    return Resolved(branch.shard, branch.gid, decided == "committed")


def forget_told(engines: Engines, finished: Collection[TransactionId]) -> None:
    """Delete the records of transactions that are finished everywhere and whose callers were told."""
    by_decider: dict[str, list[TransactionId]] = {}
    for it in finished:
        by_decider.setdefault(it.decider, []).append(it)
    for decider, ids in by_decider.items():
        with session(engines, decider) as connection:
            statement = f"DELETE FROM {records_table(ids[0].keyspace)} WHERE id = ANY(%s)"
            run(connection, statement, ([str(it) for it in ids],))


def forget_old(engines: Engines, keyspace: str, shards: Collection[str], retention: float = RETENTION) -> int:
    """Delete records older than *retention* seconds that nobody can need any more; return their number.

    A record is needed while some shard still has a part of it prepared, and while a shard does not answer.
    """
    forgotten = 0
    for decider in shards:
        try:
            forgotten += _forget_of(engines, keyspace, decider, shards, retention)
        except UNREACHABLE as error:
            log.warning("old decisions on shard %s were kept: %s", decider, _line(error))
    return forgotten


def _forget_of(engines: Engines, keyspace: str, decider: str, shards: Collection[str], retention: float) -> int:
    table = records_table(keyspace)
    query = f"SELECT id FROM {table} WHERE decided_at < clock_timestamp() - make_interval(secs => %s)"
    with session(engines, decider) as connection:
        old = run(connection, query, (retention,))
    if not old:
        return 0
    # Asked after the records were read: a part of theirs that is not prepared now was finished.
    prepared = {str(branch.transaction) for shard in shards for branch in prepared_branches(engines, keyspace, shard)}
    ids = [identity for (identity,) in old if identity not in prepared]
    with session(engines, decider) as connection:
        run(connection, f"DELETE FROM {table} WHERE id = ANY(%s)", (ids,))
    return len(ids)


def _line(error: BaseException) -> str:
    if isinstance(error, errors.InsufficientPrivilege):
        return f"only its owner or a superuser may: {str(error).strip()}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
