"""Every error that shardpool raises.

::

    ShardpoolError
    ├ ConfigError             a bad configuration: file, key, got, expected
    ├ RoutingError            the statement or key cannot be sent anywhere
    │ ├ UnknownTable          a table the keyspace does not know
    │ ├ MissingPartitionKey   a write whose partition key cannot be read from it
    │ ├ KeyTypeMismatch       a key of another type than the column
    │ └ CrossShardTransaction rows of several partitions in a one-partition call
    ├ PlanError               the planner's answers that are not a plan
    │ ├ InvalidSQL            PostgreSQL's grammar refuses the text
    │ ├ WrongParameters       no mapping, or without a name that the statement has
    │ ├ UnsupportedStatement  refused, with a code of the catalogue (planner/refusals.py)
    │ └ GatherTooLarge        more bytes than max_gather_bytes would have to travel
    ├ TopologyError
    │ ├ StalePlacement        the partition moved meanwhile (retryable)
    │ ├ NoSuchShard           no shard, or no partition, of that name
    │ ├ InvalidShardMap       gap, overlap or unknown owner in the placements
    │ ├ CatalogUnavailable    the catalog database does not answer (retryable)
    │ ├ CatalogMissing        the catalog was never initialised
    │ └ SchemaDrift           a shard does not have the tables it should have
    ├ SchemaError             DDL that sharding would break: code, reason, hint
    │ └ SchemaBusy            something was in the way; nothing was changed (retryable)
    ├ ExecutionError
    │ ├ ShardUnavailable      no connection to a shard; nothing was sent (retryable)
    │ ├ OutcomeUnknown        the connection broke after a write was sent
    │ ├ InDoubt               a transaction whose outcome cannot be found out now: has its id
    │ ├ TransactionAborted    an earlier statement failed: the transaction was rolled back
    │ ├ CrossShardDeadlock    the victim of a deadlock over several shards (retryable)
    │ ├ WriteConflict         others changed the rows while they were written (retryable)
    │ ├ SnapshotTimeout       writers were committing all the time (retryable)
    │ ├ CannotPrepare         a shard cannot prepare the transaction; it was rolled back
    │ ├ ScatterFailed         some shards of a scatter failed; the rest was cancelled
    │ ├ PoolTimeout           no connection became free in time (retryable)
    │ └ PoolClosed            the router was closed
    ├ MoveError
    │ ├ MoveInProgress        another move holds the partition (retryable)
    │ │ └ MoveTakenOver       another process settles this one's move (retryable)
    │ ├ PreflightFailed       checks that failed before anything was created
    │ ├ CutoverTimeout        writers did not let go in time; nothing moved (retryable)
    │ ├ DigestMismatch        the copy differs from the source; nothing moved
    │ ├ NotUnique             several rows have a value that was to be unique; it is undone
    │ └ OwnershipAmbiguous    recovery needs a human: says what to look at
    ├ LoadError
    │ ├ BadRow                a row that cannot be loaded: source, line, reason
    │ ├ LoadUndone            a resolver rolled it back meanwhile (retryable)
    │ └ LoadInDoubt           the load's commit was interrupted between shards
    ├ JobError                a job of the runner
    │ ├ JobBusy               another process runs it (retryable)
    │ ├ JobRefused            it cannot begin or go on like this: says why
    │ ├ JobFailed             it stopped at a chunk; what is done stays done: resume it
    │ ├ BadRows               more rows had to be left out than it may
    │ └ ChunkDone             a chunk that somebody else has written already
    └ LocalClusterError       the embedded servers cannot do what was asked

A leaf states a fact and carries it in fields. `retryable` says whether the same call may succeed later without any
change by the caller and surely did nothing this time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import sqlalchemy.exc


class ShardpoolError(Exception):
    """Base of all errors of this package."""

    retryable: ClassVar[bool] = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Come from another process as it was there: not made anew by a class that wants other arguments."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[ShardpoolError], args: tuple[Any, ...], fields: Mapping[str, Any]) -> ShardpoolError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class ConfigError(ShardpoolError):
    """A configuration value is wrong."""

    def __init__(self, file: str, key: str, got: object, expected: str) -> None:
        super().__init__(f"{file}: {key}: got {got!r}, expected {expected}")
        self.file, self.key, self.got, self.expected = file, key, got, expected


class RoutingError(ShardpoolError):
    """A statement or key cannot be routed."""


class UnknownTable(RoutingError):
    def __init__(self, table: str, keyspace: str, known: Sequence[str] = ()) -> None:
        names = ", ".join(sorted(known)) or "none yet"
        super().__init__(f"table {table!r} is not in keyspace {keyspace!r} (its tables: {names})")
        self.table, self.keyspace = table, keyspace


class MissingPartitionKey(RoutingError):
    """A write does not show which partition its rows belong to."""


class KeyTypeMismatch(RoutingError):
    def __init__(self, key: object, expected: str) -> None:
        super().__init__(f"partition key {key!r} is a {type(key).__name__}, expected {expected}")
        self.key, self.expected = key, expected


class CrossShardTransaction(RoutingError):
    """A call on one partition names rows of another."""


class PlanError(ShardpoolError):
    """A statement has no plan."""


class InvalidSQL(PlanError):
    """PostgreSQL's own grammar does not accept the statement."""


class WrongParameters(PlanError):
    """The parameters do not fit the statement."""


class UnsupportedStatement(PlanError):
    """A refusal of the catalogue in `shardpool.planner.refusals`."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"[{code}] {message}" + (f" Hint: {hint}" if hint else ""))
        self.code, self.message, self.hint = code, message, hint


class GatherTooLarge(PlanError):
    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the query needs to gather more than {limit:,} bytes on one server ({size:,} bytes so far); "
            "filter it, pin it to a partition key, or raise [query] max_gather_bytes"
        )
        self.size, self.limit = size, limit


class TopologyError(ShardpoolError):
    """Placements, shards or schemas are not what was assumed."""


class StalePlacement(TopologyError):
    """The partition is no longer where this transaction began: run the transaction again."""

    retryable = True


class NoSuchShard(TopologyError):
    pass


class InvalidShardMap(TopologyError):
    pass


class CatalogUnavailable(TopologyError):
    retryable = True


class CatalogMissing(TopologyError):
    pass


class SchemaDrift(TopologyError):
    pass


class SchemaError(ShardpoolError):
    """DDL that sharding would break, or that cannot be applied to every partition."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"[{code}] {message}" + (f" Hint: {hint}" if hint else ""))
        self.code, self.message, self.hint = code, message, hint


class SchemaBusy(SchemaError):
    """Something else was in the way; nothing was changed, and the same call may succeed later."""

    retryable = True


class ExecutionError(ShardpoolError):
    """A plan could not be carried out."""


class ShardUnavailable(ExecutionError):
    retryable = True

    def __init__(self, shard: str, reason: str) -> None:
        super().__init__(f"shard {shard!r} is unavailable: {reason}")
        self.shard = shard


class OutcomeUnknown(ExecutionError):
    """A write was sent and the connection broke before the answer: it may or may not have happened."""

    def __init__(self, shard: str, reason: str) -> None:
        super().__init__(
            f"the connection to shard {shard!r} broke after a write was sent; it may have happened: {reason}"
        )
        self.shard = shard


class InDoubt(ExecutionError):
    """Committed on all its shards or on none, but the shard that knows does not answer. Ask `router.outcome(txid)`."""

    def __init__(self, txid: str, shard: str, reason: str) -> None:
        super().__init__(
            f"the outcome of transaction {txid} is not known: shard {shard!r} does not tell ({reason}). It is "
            "committed as a whole or not at all; router.outcome(txid) says which when that shard answers"
        )
        self.txid, self.shard = txid, shard


class TransactionAborted(ExecutionError):
    """A statement of the transaction failed before, so that it can do nothing but be rolled back."""


class CrossShardDeadlock(ExecutionError):
    """Transactions waited for each other on several shards. This one, the youngest, was rolled back."""

    retryable = True

    def __init__(self, shard: str) -> None:
        super().__init__(
            f"a deadlock over several shards: the transaction was chosen to end while it waited on shard {shard!r}; "
            "run it again"
        )
        self.shard = shard


class WriteConflict(ExecutionError):
    """A write that finds its rows first did not find them as they were, again and again; it did nothing."""

    retryable = True

    def __init__(self, attempts: int) -> None:
        super().__init__(
            f"the rows were changed between finding and writing them, {attempts} times: others change them all the "
            "time, or a trigger keeps them from being written; run it again, or in isolation REPEATABLE READ"
        )


class SnapshotTimeout(ExecutionError):
    """No moment was found, in the time given, at which no transaction was being committed on several shards."""

    retryable = True


class CannotPrepare(ExecutionError):
    """A transaction that wrote several shards did what cannot be prepared, or a server does not prepare any."""

    def __init__(self, shard: str, reason: str) -> None:
        super().__init__(
            f"shard {shard!r} cannot prepare the transaction, it was rolled back on all shards: {reason}. Several "
            "shards are written together only with max_prepared_transactions > 0 (as many as connections), and without "
            "temporary tables, NOTIFY and cursors WITH HOLD"
        )
        self.shard = shard


class ScatterFailed(ExecutionError):
    def __init__(self, errors: Mapping[str, BaseException]) -> None:
        text = "; ".join(f"{shard}: {str(error).strip()}" for shard, error in sorted(errors.items()))
        super().__init__(f"{len(errors)} shard(s) failed, the others were cancelled: {text}")
        self.errors = dict(errors)


class PoolTimeout(ExecutionError, sqlalchemy.exc.TimeoutError):
    """No connection in time. Also a `sqlalchemy.exc.TimeoutError`, so that existing handlers go on working."""

    retryable = True


class PoolClosed(ExecutionError):
    pass


class MoveError(ShardpoolError):
    """A partition could not be moved."""


class MoveInProgress(MoveError):
    retryable = True


class MoveTakenOver(MoveInProgress):
    """Another process has taken the move over, because this one seemed to be dead. It finishes or undoes it."""


class PreflightFailed(MoveError):
    def __init__(self, failures: Sequence[str]) -> None:
        super().__init__("preflight failed: " + "; ".join(failures))
        self.failures = tuple(failures)


class CutoverTimeout(MoveError):
    retryable = True


class DigestMismatch(MoveError):
    pass


class NotUnique(MoveError):
    """Rows have the same value in a column that was to become unique. `duplicates` are some of these values."""

    def __init__(self, table: str, column: str, duplicates: Sequence[object]) -> None:
        super().__init__(
            f"{table}.{column} cannot be unique over all partitions, there are several rows with "
            f"{'; '.join(map(str, duplicates))}. Give these rows different values, and begin again; nothing is left of "
            "it but new numbers of partitions"
        )
        self.table, self.column, self.duplicates = table, column, tuple(duplicates)


class OwnershipAmbiguous(MoveError):
    pass


class LoadError(ShardpoolError):
    """Rows could not be loaded; nothing of the load is left."""


class BadRow(LoadError):
    def __init__(self, source: str, line: int, reason: str) -> None:
        super().__init__(f"{source}, line {line}: {reason}")
        self.source, self.line, self.reason = source, line, reason


class LoadUndone(LoadError):
    """It took so long to commit that a resolver decided against it; nothing of it is left."""

    retryable = True


class LoadInDoubt(LoadError):
    """The commit was interrupted between shards; the message names what is where."""


class JobError(ShardpoolError):
    """A job of the runner."""


class JobBusy(JobError):
    retryable = True


class JobRefused(JobError):
    """Nothing was read or written."""


class JobFailed(JobError):
    """A job stopped. What its ledger has is done; `resume_job` does the rest."""


class BadRows(JobError):
    """A row is bad, and no more rows may be left out. `source` names the row."""

    def __init__(self, source: str, reason: str, allowed: int) -> None:
        super().__init__(f"{source}: {reason} (rows that may be left out: {allowed}; see [bad_rows] max)")
        self.source, self.reason, self.allowed = source, reason, allowed


class ChunkDone(JobError):
    """The ledger has the chunk already."""


class LocalClusterError(ShardpoolError, RuntimeError):
    """A local server or cluster cannot do what was asked; for a failed server with the last lines of its log."""
