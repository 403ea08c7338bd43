"""Transactions over shards: a branch per shard, opened when it is needed; one commit for all of them.

The shard map is pinned when the transaction begins: a newer one might name a shard on which the partition arrived after
this transaction's snapshot there. What is no longer where the map says answers with `StalePlacement`, and the
transaction is run again as a whole. Only while nothing was done yet, it follows the partition by itself.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, cast, get_args

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_INTRANS
from sqlalchemy.engine import Result
from sqlalchemy.sql import Executable

from shardpool.engines import Engines
from shardpool.engines.right_of_way import Passage
from shardpool.engines.translate import is_lost, is_stale, translate
from shardpool.errors import CrossShardDeadlock, StalePlacement, TransactionAborted
from shardpool.executor.at_once import Hands
from shardpool.executor.branch import Branch
from shardpool.executor.cache import PlanCache
from shardpool.executor.constructs import Constructs
from shardpool.executor.current import CurrentTopology
from shardpool.executor.deadlocks import GIVES_WAY, Deadlocks
from shardpool.executor.parameters import with_parameters
from shardpool.executor.results import RoutedResult
from shardpool.executor.writes import answer, lock_reference, write_reserved
from shardpool.planner.keyed import KeyedStatement, types_of_key
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.often import OftenUsed
from shardpool.planner.writes import CompiledWrite
from shardpool.topology.key import KeyValue
from shardpool.topology.shard_map import Placement, Topology
from shardpool.two_phase import Coordinator
from shardpool.two_phase.names import SESSIONS

T = TypeVar("T")
P = ParamSpec("P")
Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
Parameters = Mapping[str, Any]

_ISOLATIONS = get_args(Isolation)
_BEGIN = {
    (isolation, read_only): f"BEGIN ISOLATION LEVEL {isolation}, READ {'ONLY' if read_only else 'WRITE'}"
    for isolation in _ISOLATIONS
    for read_only in (True, False)
}
#: What sessions are opened with. To say it anyway costs the server a tenth of a small transaction.
_BEGIN["READ COMMITTED", False] = "BEGIN"
#: Of the schemas that the snapshot has, those that are still what their names mean now.
_IN_PLACE = (
    "SELECT nspname FROM pg_namespace WHERE nspname = ANY(%(schemas)s) AND oid = to_regnamespace(quote_ident(nspname))"
)


@dataclass(frozen=True)
class Surroundings:
    """What transactions of a router share."""

    engines: Engines
    current: CurrentTopology
    keyed: PlanCache[KeyedStatement]
    queries: PlanCache[CompiledQuery | CompiledWrite]
    constructs: Constructs
    threads: ThreadPoolExecutor
    coordinator: Coordinator
    deadlocks: Deadlocks
    hands: Hands
    max_gather_bytes: int


class Transaction:
    """What `Router.transaction` gives. For one thread at a time; it ends with its block."""

    #: Whoever began it runs it again by itself, in another way: of a deadlock it is the victim.
    gives_way = False
    _named = 0
    _name = ""
    _failure: BaseException | None = None
    _doomed = _ended = False
    _untouched = True

    def __init__(self, around: Surroundings, isolation: Isolation, read_only: bool, retries: int) -> None:
        if isolation not in _ISOLATIONS:
            raise ValueError(f"isolation is {isolation!r}, expected one of {', '.join(_ISOLATIONS)}")
        self._around = around
        self._retries = retries
        self._snapshots = isolation != "READ COMMITTED"
        self.isolation = isolation
        self._read_only = read_only
        self._begin = _BEGIN[isolation, read_only]
        self._branches: dict[str, Branch] = {}
        self.passage = Passage(around.engines.right_of_way)
        self._savepoints: list[str] = []
        self._pin()

    def _pin(self) -> None:
        self._topology = self._around.current.value

    # -- statements -------------------------------------------------------------------------------------------------

    @with_parameters
    def execute(self, key: KeyValue, sql: str | Executable, params: Parameters | None = None) -> Result[Any]:
        """Run one statement on the partition of *key*. Raises as `Router.execute`, and `StalePlacement`."""
        if not isinstance(sql, str):
            return self._around.constructs.execute(
                sql, params, lambda text, values: self._keyed(key, text, values, True)
            )
        return self._keyed(key, sql, params or {}, False)

    def _keyed(self, key: KeyValue, sql: str, params: Parameters, pyformat: bool) -> RoutedResult:
        if not self._untouched:
            return self._on_partition(self._topology, key, sql, params, pyformat)
        return self.following(lambda topology: self._on_partition(topology, key, sql, params, pyformat))

    def _on_partition(
        self, topology: Topology, key: KeyValue, sql: str, params: Parameters, pyformat: bool
    ) -> RoutedResult:
        compiled, values = self._around.keyed.find(sql, params, topology, pyformat)
        placement = topology.place(key, compiled.key_types or types_of_key(key, topology))
        partition = placement.partition
        if compiled.reserved:
            whole, values = self._around.queries.find(sql, params, topology, pyformat)
            return write_reserved(self, cast(CompiledWrite, whole), values, placement)
        if compiled.locks_copies:
            return lock_reference(self, lambda its: self._around.queries.find(sql, params, its, pyformat), topology)
        if compiled.written:
            compiled.check_written(partition, values, topology)
        text = topology.qualifiers[partition.id].join(compiled.template)
        path = topology.search_paths[partition.id] if compiled.needs_path else ""
        return self.on_shard(
            placement.shard,
            text,
            values,
            [placement],
            compiled.needs_path,
            path=path,
            often=compiled.prepared_for(values),
            locks=compiled.locks,
        )

    @with_parameters
    def query(self, sql: str | Executable, params: Parameters | None = None) -> Result[Any]:
        """Answer a SELECT over all shards, with the transaction's own writes, or write. Raises as `Router.query`."""
        if not isinstance(sql, str):
            return self._around.constructs.execute(sql, params, self.pyformat)
        return answer(self, lambda topology: self._around.queries.find(sql, params or {}, topology))

    def pyformat(self, sql: str, params: Parameters) -> RoutedResult:
        """Do as `query` for a text in psycopg2's spelling, as SQLAlchemy writes it."""
        return answer(self, lambda topology: (self._around.queries.pyformat(sql, topology), params))

    # -- what the parts of a transaction use ------------------------------------------------------------------------

    @property
    def around(self) -> Surroundings:
        return self._around

    @property
    def topology(self) -> Topology:
        """The pinned topology."""
        return self._topology

    @property
    def savepoints(self) -> Sequence[str]:
        """The names of those that are open."""
        return self._savepoints

    @property
    def shards(self) -> Sequence[str]:
        """The shards that take part so far; those that were written first."""
        return sorted(self._branches, key=lambda shard: (not self._branches[shard].may_write, shard))

    @property
    def may_write(self) -> bool:
        """Whether anything was done that may have written."""
        return any(branch.may_write for branch in self._branches.values())

    def following(self, work: Callable[[Topology], T]) -> T:
        """Do *work* with the pinned topology, or with a newer one if a partition had moved before anything was done."""
        for _ in range(self._retries):
            if not self._untouched:
                break
            try:
                return work(self._topology)
            except StalePlacement:
                if not self._untouched:
                    raise
                self.begin_again()
        return work(self._topology)

    def begin_again(self) -> None:
        """Roll back, and start anew with the topology of now."""
        self._roll_back()
        self._release()
        self._failure, self._doomed, self._untouched = None, False, True
        self._pin()

    def on_shard(
        self,
        shard: str,
        sql: str,
        params: Parameters,
        placements: Sequence[Placement],
        may_write: bool,
        texts: bool = False,
        locks: bool = False,
        path: str = "",
        often: OftenUsed | None = None,
    ) -> RoutedResult:
        """Run a statement of this transaction on a shard. The other options are those of `Branch.run`."""
        branch = self.branch(shard)
        if may_write or locks:
            self.note_effect(branch, may_write)
        try:
            result = self.waiting(branch, branch.run, sql, params, self._savepoints, texts, path, often)
        except psycopg2.Error as error:
            raise self.failed(error, branch.connection, shard, placements) from error
        except CrossShardDeadlock as error:
            self.give_up(error)
            raise
        self.check_in_place(placements)
        return result

    def now(self, shard: str) -> str:
        """The current time, as the shard spells it; in a transaction it stays the same."""
        return str(self.on_shard(shard, "SELECT pg_catalog.now()::text", {}, [], False).scalar_one())

    def note_effect(self, branch: Branch, may_write: bool) -> None:
        """A branch is going to write, or only to lock rows. In SERIALIZABLE the end of such a one may fail, too."""
        branch.may_write = branch.may_write or may_write or self.isolation == "SERIALIZABLE"
        branch.locks = True

    def waiting(self, branch: Branch, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Do *work* on a branch, where it may wait for others. Raise psycopg2's errors, `CrossShardDeadlock`."""
        if len(self._branches) == 1:
            return work(*arguments, **options)
        deadlocks = self._around.deadlocks
        place = deadlocks.watch(self._name, branch, self._branches.values())
        try:
            try:
                return work(*arguments, **options)
            finally:
                deadlocks.leave(place)
        except psycopg2.Error as error:
            if branch.cancelled:
                raise CrossShardDeadlock(branch.shard) from error
            raise

    def branch(self, shard: str) -> Branch:
        """Return the shard's branch, opened if it is not yet."""
        if self._ended or self._failure is not None:
            self._check_usable()
        found = self._branches.get(shard)
        if found is None:
            if len(self._branches) == 1:
                self._name_sessions()
            passage = self.passage if self._branches else None
            found = Branch(self._around.engines, shard, self.begin_on(shard), passage)
            if self._branches:
                found.mark(SESSIONS + self._name)
            self._branches[shard] = found
        return found

    def _name_sessions(self) -> None:
        """The transaction takes a second shard: from here on it can be part of a deadlock that no server sees."""
        self._name = f"{GIVES_WAY * self.gives_way}{time.time_ns():020}-{random.getrandbits(32):08x}"
        (first,) = self._branches.values()
        first.mark(SESSIONS + self._name)

    def begin_on(self, shard: str) -> str:
        """The statement that opens the transaction on a shard."""
        return self._begin

    def _check_usable(self) -> None:
        if self._ended:
            raise TransactionAborted("the transaction has ended")
        if self._failure is not None:
            raise TransactionAborted(
                f"the transaction is aborted, statements are ignored until its end: {_line(self._failure)}"
            ) from self._failure

    def enter(self, shard: str) -> Any:
        """Return the shard's connection, inside of the transaction and its savepoints. Raise psycopg2's errors."""
        branch = self.branch(shard)
        branch.enter(self._savepoints)
        return branch.connection

    def failed(
        self, error: psycopg2.Error, connection: Any, shard: str, placements: Collection[Placement]
    ) -> Exception:
        """Note that a statement failed, and return what to raise."""
        self._failure = error
        self._doomed = self._doomed or is_lost(error, connection)
        if is_stale(error) and self._around.current.moved(self._topology, placements):
            self._doomed = True
            return StalePlacement("a partition moved since the transaction began: run the transaction again")
        return translate(error, connection, shard, "", writes=False)

    def fail(self, error: Exception) -> Exception:
        """A statement failed, though no session shows it. Return its error, to be raised."""
        self._failure = self._failure or error
        return error

    def give_up(self, error: Exception) -> Exception:
        """The transaction can only be rolled back, for this reason. Return it, to be raised."""
        self._failure, self._doomed = error, True
        return error

    def note_failure(self, error: BaseException) -> None:
        """After an error of work on several branches: the transaction goes on if none of them was harmed."""
        states = [branch.connection.get_transaction_status() for branch in self._branches.values() if branch.used]
        if any(state != TRANSACTION_STATUS_INTRANS for state in states):
            self._failure = error
            self._doomed = self._doomed or any(branch.connection.closed for branch in self._branches.values())

    def check_in_place(self, placements: Collection[Placement]) -> None:
        """After statements that read *placements*: their rows were there when the shards' snapshots were taken.

        A partition that left and came back has its name again, but its rows are younger than an older snapshot. The
        snapshot itself tells: read with it, the catalog has no such schema, or another one. Now that a table of the
        partition is locked, it cannot leave before the end of the transaction.
        """
        self._untouched = False
        if not self._snapshots:
            return
        by_shard: dict[str, list[Placement]] = {}
        for it in placements:
            if it.partition.id not in self._branches[it.shard].seen:
                by_shard.setdefault(it.shard, []).append(it)
        for shard, found in by_shard.items():
            branch = self._branches[shard]
            schemas = {it.partition.schema: it.partition.id for it in found}
            try:
                in_place = branch.run(_IN_PLACE, {"schemas": list(schemas)}, self._savepoints).rows
            except psycopg2.Error as error:
                raise self.failed(error, branch.connection, shard, ()) from error
            late = schemas.keys() - {name for (name,) in in_place}
            if late:
                found_late = f"partition schema {min(late)} came to shard {shard!r} after the transaction's"
                raise self.give_up(StalePlacement(f"{found_late} snapshot: run the transaction again"))
            branch.seen = branch.seen.union(schemas.values())

    # -- savepoints and the end -------------------------------------------------------------------------------------

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A block whose statements are taken back if it raises; after that the transaction goes on."""
        self._check_usable()
        self._named += 1
        name = f"shardpool_{self._named}"
        self._savepoints.append(name)
        try:
            yield
        except BaseException:
            self._roll_back_to(name)
            raise
        finally:
            del self._savepoints[self._savepoints.index(name) :]

    def _roll_back_to(self, name: str) -> None:
        if self._doomed or self._ended:
            return
        for branch in self._branches.values():
            try:
                branch.roll_back_to(name)
            except psycopg2.Error as error:
                self._failure, self._doomed = error, True
                return
        self._failure = None

    def commit(self) -> None:
        """Commit all branches as one, and end. Raise `TransactionAborted`, `InDoubt`, or as `Coordinator.commit`."""
        if self._ended:
            return
        failure = self._failure
        if failure is not None:
            self.rollback()
            raise TransactionAborted(
                f"the transaction was rolled back, because a statement had failed: {_line(failure)}"
            ) from failure
        try:
            self._commit()
        finally:
            self._end()

    def _commit(self) -> None:
        writers, lockers = {}, []
        for branch in self._branches.values():
            if branch.used and branch.may_write and not self._read_only:
                writers[branch.shard] = branch.cursor
                continue
            if branch.locks:
                lockers.append(branch)
                continue
            try:
                # First, because it may fail: a serialisation failure must not come after the decision.
                branch.end("COMMIT")
            except psycopg2.Error as error:
                self._roll_back()
                raise translate(error, branch.connection, branch.shard, "COMMIT", writes=False) from error
        self._around.coordinator.commit(writers)
        for branch in lockers:
            # Last, so that who gets a lock then sees what was written under it.
            try:
                branch.end("COMMIT")
            except psycopg2.Error:
                branch.connection.close()

    def rollback(self) -> None:
        """Roll back, and end. Never raises for a broken connection: its server rolls back."""
        if not self._ended:
            self._roll_back()
            self._end()

    def _roll_back(self) -> None:
        for branch in self._branches.values():
            try:
                branch.end("ROLLBACK")
            except psycopg2.Error:
                branch.connection.close()

    def _end(self) -> None:
        self._ended = True
        self._release()

    def _release(self) -> None:
        for branch in self._branches.values():
            branch.release()
        self._branches.clear()
        self.passage.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.commit()
        else:
            self.rollback()


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
