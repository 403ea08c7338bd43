"""The coordinator: commits the open transactions of several connections as one.

Names of the fault points for tests, in order: ``tx:recorded``, ``tx:prepared-one``, ``tx:prepared``, ``tx:decided``,
``tx:committed-one``, ``tx:committed``; and ``tx:alone`` before the commit of a transaction on one shard.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, wait
from typing import Any

import psycopg2
from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_random_exponential

from shardpool import faults
from shardpool.engines import Engines
from shardpool.engines.prepared import SessionCursor
from shardpool.engines.translate import is_lost, translate
from shardpool.errors import CannotPrepare, InDoubt, ShardUnavailable, TransactionAborted
from shardpool.topology.names import literal
from shardpool.two_phase.asking import Outcome, outcome
from shardpool.two_phase.names import DURABLE, TransactionId, enter_gate, enter_record, new_id, record_of
from shardpool.two_phase.resolving import forget_told
from shardpool.two_phase.sessions import UNREACHABLE, finish_prepared, run

log = logging.getLogger(__name__)

#: A decider ends the session of a coordinator that says nothing for so long between record and commit, in seconds.
DECISION_TIME = 10.0
#: How long the coordinator asks for an outcome that it missed before it says "in doubt", in seconds.
ASK_PATIENCE = 5.0
#: Records of told transactions are deleted after this time, in seconds.
TOLD_RETENTION = 60.0
#: So many are remembered for that; others are deleted when they are old.
MAX_TOLD = 100_000
#: prepared transactions disabled, too many of them, not for a transaction with temporary tables or NOTIFY.
_UNPREPARABLE = ("55000", "53200", "0A000")


class Coordinator:
    """Commits transactions of one keyspace; *threads* tell several shards at once. Thread-safe."""

    def __init__(self, engines: Engines, keyspace: str, threads: Executor) -> None:
        self._engines = engines
        self._keyspace = keyspace
        self._threads = threads
        self._told: deque[tuple[float, TransactionId]] = deque(maxlen=MAX_TOLD)

    def commit(self, cursors: Mapping[str, SessionCursor]) -> None:
        """Commit the transactions that are open on the connections (in autocommit mode) of these cursors, by shard, on
        all or none.

        Afterwards no connection is in a transaction; broken ones are closed. Raise, with everything rolled back,
        `sqlalchemy.exc` errors (a deferred constraint, a serialisation failure), `ShardUnavailable`, `CannotPrepare`;
        or `InDoubt` if the outcome cannot be found out now.
        """
        if len(cursors) == 1:
            ((shard, cursor),) = cursors.items()
            transaction = new_id(self._keyspace, shard)
            _commit_alone(self._engines, transaction, cursor)
            self._told.append((time.monotonic(), transaction))
        elif cursors:
            connections = {shard: cursor.connection for shard, cursor in cursors.items()}
            attempt = _Commit(self._engines, self._keyspace, self._threads, connections)
            if attempt.run():
                self._told.append((time.monotonic(), attempt.id))

    def busy(self) -> bool:
        """Whether transactions were committed lately."""
        return bool(self._told)

    def forget(self, age: float = TOLD_RETENTION) -> None:
        """Delete the records of transactions that ended everywhere more than *age* seconds ago. Raise as a session."""
        old = []
        while self._told and self._told[0][0] <= time.monotonic() - age:
            old.append(self._told.popleft()[1])
        forget_told(self._engines, old)


def _commit_alone(engines: Engines, transaction: TransactionId, cursor: SessionCursor) -> None:
    """Commit on the one shard that was written. The record travels with the commit, to make up for a lost answer."""
    faults.fault_point("tx:alone")
    try:
        name = cursor.prepared("text", record_of(transaction.keyspace))
        record = f"EXECUTE {name} ('{transaction}')" if name else enter_record(transaction)
        _end(cursor, "COMMIT", before=record + "; ")
    except psycopg2.Error as error:
        connection, shard = cursor.connection, transaction.decider
        if not is_lost(error, connection):
            _roll_back(connection)
            if isinstance(error, psycopg2.errors.InvalidSqlStatementName):
                connection.close()  # A user's function has deallocated it. Another session will do: retryable.
            raise translate(error, connection, shard, "COMMIT", writes=False) from error
        connection.close()
        if _missed(engines, transaction, error) == "aborted":
            raise ShardUnavailable(shard, f"the transaction was rolled back: {_line(error)}") from error


class _Commit:
    """One commit on several shards. The parts are numbered in the order of the shards' names."""

    def __init__(self, engines: Engines, keyspace: str, threads: Executor, connections: Mapping[str, Any]) -> None:
        self._engines = engines
        self._threads = threads
        self._connections = connections
        shards = sorted(connections)
        # The first one decides: it enters its gate before all others, in the order in which snapshots lock them.
        self.id = new_id(keyspace, shards[0])
        self._gids = {shard: self.id.gid(number) for number, shard in enumerate(shards) if shard != self.id.decider}
        self._asked_to_prepare: set[str] = set()

    def run(self) -> bool:
        """Commit; return whether all shards acknowledged it. Raise as `Coordinator.commit`."""
        try:
            try:
                self._record()
                self._prepare()
            except Exception:
                self._undo()
                raise
            self._decide()
            return self._commit_prepared()
        except Exception:
            raise
        except BaseException as interrupt:
            interrupt.add_note(self._settle_interrupted())
            raise

    def _record(self) -> None:
        decider = self._connections[self.id.decider]
        statement = (
            f"SET LOCAL idle_in_transaction_session_timeout = {int(DECISION_TIME * 1000)}; "
            f"{enter_gate(self.id.keyspace)}{enter_record(self.id)} RETURNING current_setting('synchronous_commit')"
        )
        try:
            if run(decider, statement)[0][0] in ("off", "local"):
                run(decider, DURABLE)
        except psycopg2.errors.UniqueViolation as error:
            raise TransactionAborted(
                f"transaction {self.id} was rolled back: somebody asked for its outcome before it committed"
            ) from error
        except psycopg2.Error as error:
            raise translate(error, decider, self.id.decider, "COMMIT", writes=False) from error
        faults.fault_point("tx:recorded")

    def _prepare(self) -> None:
        def prepare(shard: str) -> None:
            self._asked_to_prepare.add(shard)
            before = f"{DURABLE}; {enter_gate(self.id.keyspace)}"
            with self._connections[shard].cursor() as cursor:
                _end(cursor, "PREPARE TRANSACTION", literal(self._gids[shard]), before=before)
            faults.fault_point("tx:prepared-one")

        for shard, error in self._on_each(prepare).items():
            if not isinstance(error, psycopg2.Error):
                raise error
            if error.pgcode in _UNPREPARABLE:
                raise CannotPrepare(shard, _line(error)) from error
            raise translate(error, self._connections[shard], shard, "PREPARE TRANSACTION", writes=False) from error
        faults.fault_point("tx:prepared")

    def _decide(self) -> None:
        decider = self._connections[self.id.decider]
        try:
            with decider.cursor() as cursor:
                _end(cursor, "COMMIT")
        except psycopg2.Error as error:
            if not is_lost(error, decider):
                self._undo()
                raise translate(error, decider, self.id.decider, "COMMIT", writes=False) from error
            decider.close()
            if _missed(self._engines, self.id, error) == "aborted":
                self._undo()
                raise ShardUnavailable(
                    self.id.decider, f"the transaction was rolled back on all shards: {_line(error)}"
                ) from error
        faults.fault_point("tx:decided")

    def _commit_prepared(self) -> bool:
        def commit(shard: str) -> None:
            self._finish(shard, commit=True)
            faults.fault_point("tx:committed-one")

        left = self._on_each(commit)
        for shard, error in left.items():
            log.warning(
                "transaction %s is committed, but shard %s could not be told and does not show it yet: %s",
                self.id,
                shard,
                _line(error),
            )
        faults.fault_point("tx:committed")
        return not left

    def _undo(self) -> None:
        """Roll back everywhere, the decider first: from then on nobody can find the record."""
        _roll_back(self._connections[self.id.decider])

        def undo(shard: str) -> None:
            if shard in self._asked_to_prepare:
                self._finish(shard, commit=False)
            else:
                _roll_back(self._connections[shard])

        for shard, error in self._on_each(undo).items():
            log.warning("%s on shard %s is left to be rolled back: %s", self._gids[shard], shard, _line(error))

    def _finish(self, shard: str, *, commit: bool) -> None:
        """Tell a shard that has prepared, or may have. Raise what `finish_prepared` raises."""
        connection = self._connections[shard]
        if not connection.closed:
            try:
                run(connection, f"{'COMMIT' if commit else 'ROLLBACK'} PREPARED {literal(self._gids[shard])}")
                return
            except psycopg2.errors.UndefinedObject:
                return
            except psycopg2.Error:
                connection.close()
        finish_prepared(self._engines, shard, self._gids[shard], commit=commit)

    def _on_each(self, work: Callable[[str], None]) -> dict[str, Exception]:
        """Do *work* on all shards but the decider, at once; return the errors."""
        failed: dict[str, Exception] = {}

        def guarded(shard: str) -> None:
            try:
                work(shard)
            except Exception as error:
                failed[shard] = error

        first, *others = self._gids
        futures = [self._threads.submit(guarded, shard) for shard in others]
        try:
            guarded(first)
        finally:
            if futures:
                wait(futures)
        return failed

    def _settle_interrupted(self) -> str:
        """End the decider's session, ask, and tell the others; return what became of the transaction."""
        self._connections[self.id.decider].close()
        try:
            found = outcome(self._engines, self.id)
            if found == "undecided":
                return f"transaction {self.id} is in doubt"
            for shard in self._gids:
                if shard in self._asked_to_prepare:
                    self._finish(shard, commit=found == "committed")
                else:
                    _roll_back(self._connections[shard])
        except UNREACHABLE as error:
            return f"transaction {self.id} is in doubt: {_line(error)}"
        return f"transaction {self.id} was {found}"


def _missed(engines: Engines, transaction: TransactionId, error: psycopg2.Error) -> Outcome:
    """Find out an outcome whose answer was lost: "committed" or "aborted". Raise `InDoubt`."""
    asking = Retrying(
        retry=retry_if_exception_type(UNREACHABLE) | retry_if_result(lambda found: found == "undecided"),
        stop=stop_after_delay(ASK_PATIENCE),
        wait=wait_random_exponential(multiplier=0.05, max=1.0),
        retry_error_callback=lambda state: "undecided",
    )
    found: Outcome = asking(outcome, engines, transaction)
    if found == "undecided":
        raise InDoubt(str(transaction), transaction.decider, _line(error)) from error
    return found


def _end(cursor: Any, command: str, name: str = "", before: str = "") -> None:
    """End a transaction by *command*. A failed transaction answers ROLLBACK, and no error: that is made one."""
    cursor.execute(f"{before}{command} {name}")
    if cursor.statusmessage != command:
        raise psycopg2.errors.InFailedSqlTransaction(f"{command} was answered by {cursor.statusmessage}")


def _roll_back(connection: Any) -> None:
    """Roll back; a connection that cannot is closed, which does the same."""
    try:
        run(connection, "ROLLBACK")
    except psycopg2.Error:
        connection.close()


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
