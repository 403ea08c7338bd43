"""Writes over several partitions: their steps, in one transaction.

The shards are taken in the order of their names, so that two such writes never wait for each other on two shards. A
write that is a transaction of its own takes them at once where that is rare: where only new rows are written, which
wait for equal ones only; and, of the writes of a table's rows that may be there, one at a time. If it came to a
deadlock nevertheless, it is done again in order. What is one step on one shard is sent by itself, in one round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg2
from sqlalchemy.exc import DBAPIError

from shardpool.engines.translate import is_stale, translate
from shardpool.errors import CrossShardDeadlock, GatherTooLarge, SchemaDrift, StalePlacement, WriteConflict
from shardpool.executor.at_once import alone, write_at_once
from shardpool.executor.copied import copied
from shardpool.executor.current import CurrentTopology, check_plan
from shardpool.executor.moving_rows import beside_movers, keep_out
from shardpool.executor.queries import placements_of
from shardpool.executor.results import RoutedResult
from shardpool.executor.row_locks import check_all_shards
from shardpool.executor.statements import MAX_RETRIES, Statements
from shardpool.executor.texts import type_names
from shardpool.executor.transaction_queries import select
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.moment import MOMENT
from shardpool.planner.refusals import refuse
from shardpool.planner.writes import (
    Apart,
    CompiledWrite,
    Copies,
    Found,
    Guarded,
    Staged,
    StagedChange,
    StagedInsert,
    StagedMerge,
    Step,
    Steps,
    within,
)
from shardpool.topology.shard_map import Placement, Topology

if TYPE_CHECKING:
    from shardpool.executor.transaction import Transaction

Parameters = Mapping[str, Any]
#: Compiles a statement for a topology, and tells its parameters.
Find = Callable[[Topology], tuple[CompiledQuery | CompiledWrite, Parameters]]
#: How often a write gives way to the transactions with which it came to a deadlock.
DEADLOCKS = 3
#: The version since which RETURNING has the rows as they were, too.
RETURNS_BOTH = 180000
#: The version since which MERGE has RETURNING.
MERGE_RETURNS = 170000
#: How often rows are found anew because others change them.
ATTEMPTS = 10


@dataclass(frozen=True)
class Bound:
    """How a write is carried out under a topology."""

    topology: Topology
    steps: Steps | Staged | Apart


class Writes:
    """Carries out compiled writes, each as a transaction of its own."""

    def __init__(self, current: CurrentTopology, statements: Statements, begin: Callable[[], Transaction]) -> None:
        self._current = current
        self._statements = statements
        self._begin = begin

    def lock(self, find: Find) -> RoutedResult:
        """Answer the SELECT, which locks rows of several partitions, that *find* compiles. Raises as `answer`."""
        return self._repeated(lambda transaction, _: answer(transaction, find))

    def answer(self, compiled: CompiledWrite, parameters: Parameters, planned: Topology) -> RoutedResult:
        """Carry out what was compiled for *planned*. Raises `OutdatedPlan`, and as `Router.query`; `InDoubt` and
        `CannotPrepare` where several shards are written."""
        retries = 0
        while True:
            topology = self._current.value
            check_plan(planned, topology)
            steps = compiled.bind(parameters, topology)
            if isinstance(compiled, Guarded) or not isinstance(steps, Steps) or len(steps.steps) != 1 or steps.copies:
                return self._together(compiled, parameters, Bound(topology, steps))
            (step,) = steps.steps
            try:
                return self._statements.on_shard(step.shard, step.sql, parameters, writes=True)
            except psycopg2.Error as error:
                retries += 1
                placements = [step.placement] if step.placement is not None else []
                if retries > MAX_RETRIES or not self._current.moved(topology, placements):
                    raise translate(error, None, step.shard, step.sql, writes=True) from error

    def on_partition(
        self, placement: Placement, compiled: CompiledWrite, parameters: Parameters, topology: Topology
    ) -> RoutedResult:
        """As `answer`, for a write that `planner.keyed` calls reserved."""
        return self._together(compiled, parameters, Bound(topology, within(compiled, placement, parameters, topology)))

    def _together(self, compiled: CompiledWrite, parameters: Parameters, bound: Bound) -> RoutedResult:
        def work(transaction: Transaction, at_once: bool) -> RoutedResult:
            check_plan(bound.topology, transaction.topology)
            return write(transaction, compiled, parameters, bound, at_once)

        return self._repeated(work)

    def _repeated(self, work: Callable[[Transaction, bool], RoutedResult]) -> RoutedResult:
        """Do *work* in a transaction, at once on its shards at first; again where it may succeed then."""
        retries = deadlocks = 0
        while True:
            try:
                with self._begin() as transaction:
                    transaction.gives_way = deadlocks < DEADLOCKS
                    return work(transaction, not deadlocks)
            except StalePlacement:
                retries += 1
                if retries > MAX_RETRIES:
                    raise
            except CrossShardDeadlock:
                deadlocks += 1
                if deadlocks > DEADLOCKS:
                    raise


def answer(transaction: Transaction, find: Find) -> RoutedResult:
    """Answer the SELECT in a transaction, or write, what *find* compiles for its topology. Raises as `Router.query`;
    refuses functions of unknown effect."""

    def work(topology: Topology) -> RoutedResult:
        compiled, parameters = find(topology)
        if isinstance(compiled, CompiledQuery):
            return select(transaction, compiled, parameters, topology)
        return write(transaction, compiled, parameters)

    return transaction.following(work)


def lock_reference(transaction: Transaction, find: Find, topology: Topology) -> RoutedResult:
    """Answer a statement that `planner.keyed` says locks copies of reference tables: all, if it reads nothing else."""
    compiled, parameters = find(topology)
    if not isinstance(compiled, CompiledQuery) or compiled.locks is None:
        raise refuse("SP144", "it locks rows in a subquery")
    if compiled.sharded:
        compiled.locks.check_copies()
    return select(transaction, compiled, parameters, topology)


def write_reserved(
    transaction: Transaction, compiled: CompiledWrite, parameters: Parameters, placement: Placement
) -> RoutedResult:
    """Carry out a write that `planner.keyed` calls reserved."""
    topology = transaction.topology
    return write(transaction, compiled, parameters, Bound(topology, within(compiled, placement, parameters, topology)))


def write(
    transaction: Transaction,
    compiled: CompiledWrite,
    parameters: Parameters,
    bound: Bound | None = None,
    at_once: bool = False,
    texts: bool = False,
) -> RoutedResult:
    """Carry out a write as a part of *transaction*; as *bound*, if that is for its topology. *at_once*: the shards may
    be written at the same time, though that may come to a deadlock with others of the same rows.
    *texts*: the answer's values as the server spells them."""
    if bound is None or bound.topology is not transaction.topology:
        bound = Bound(transaction.topology, compiled.bind(parameters, transaction.topology))
    if isinstance(bound.steps, Apart):
        return _apart(transaction, bound.steps, parameters, at_once)
    if isinstance(compiled, Guarded) and compiled.both:
        _check_version(transaction, compiled)
    result, steps = _written(transaction, bound.steps, parameters, at_once, texts)
    return _with_reservations(transaction, compiled, result, steps) if isinstance(compiled, Guarded) else result


def _apart(transaction: Transaction, apart: Apart, parameters: Parameters, at_once: bool) -> RoutedResult:
    """Write, and read what that returns; neither, if it cannot be read."""
    try:
        with transaction.savepoint():
            result = write(transaction, apart.inner, parameters, None, at_once, texts=True)
            description = result.description or ()
            found = Found(type_names(transaction, description), result.rows)
            _check_size(found, transaction.around.max_gather_bytes)
            sql, given = apart.reading(tuple(column.name for column in description), found, parameters)
            return transaction.on_shard(transaction.shards[0], sql, given, [], False)
    except DBAPIError as error:
        # As any statement that fails, though its savepoint was rolled back.
        raise transaction.fail(error) from error.__cause__


def _written(
    transaction: Transaction, steps: Steps | Staged, parameters: Parameters, at_once: bool, texts: bool
) -> tuple[RoutedResult, Steps]:
    if steps.copies is not None:
        _lock_copies(transaction, steps.copies)
        if isinstance(steps, StagedMerge) and _version(transaction) < MERGE_RETURNS:
            raise refuse("SP136", f"MERGE INTO {steps.table.name} needs PostgreSQL 17")
    if isinstance(steps, Steps):
        return _carried_out(transaction, steps, parameters, at_once, texts), steps
    return _staged(transaction, steps, parameters, at_once, texts)


def _check_version(transaction: Transaction, guarded: Guarded) -> None:
    if _version(transaction) < RETURNS_BOTH:
        what = "MERGE" if guarded.verb == "merge" else "ON CONFLICT DO UPDATE of a unique column"
        raise refuse("SP139", f"{what} into {guarded.table.name} needs PostgreSQL 18")


def _version(transaction: Transaction) -> int:
    shard = [*transaction.shards, *sorted(transaction.topology.shard_map.shards)][0]
    return int(transaction.enter(shard).server_version)


def _with_reservations(transaction: Transaction, guarded: Guarded, result: RoutedResult, steps: Steps) -> RoutedResult:
    """Write the reservations along; return the result without what was hidden in it."""
    width = guarded.width
    after = [row[-width:] for row in result.rows]
    for step in guarded.reservations(steps.before, after, transaction.topology):
        placements = [step.placement] if step.placement else []
        try:
            written = transaction.on_shard(step.shard, step.sql, step.parameters, placements, True)
        except DBAPIError as error:
            # The table of reservations was dropped: the column is not unique any more, or will not be in a moment.
            gone = isinstance(error.orig, psycopg2.Error) and is_stale(error.orig)
            if gone and transaction.around.current.outdated(transaction.topology):
                stale = StalePlacement("a column ceased to be unique since the transaction began: run it again")
                raise transaction.give_up(stale) from error
            raise
        if step.expected is not None and written.rowcount != step.expected:
            if step.why:
                transaction.on_shard(step.shard, step.why, step.parameters, placements, True)
            drift = SchemaDrift(
                f"the reservations of table {guarded.table.name!r} do not agree with its rows: shardpool doctor tells "
                "more; nothing was changed"
            )
            raise transaction.give_up(drift)
    if not guarded.returns:
        return RoutedResult(None, [], result.rowcount)
    return RoutedResult(result.description[:-width], [row[:-width] for row in result.rows], result.rowcount)


def _staged(
    transaction: Transaction, staged: Staged, parameters: Parameters, at_once: bool, texts: bool
) -> tuple[RoutedResult, Steps]:
    """Find the rows and write them; again if somebody changed them in between."""
    for _ in range(ATTEMPTS):
        try:
            with suppress(_Changed), transaction.savepoint():
                if isinstance(staged, StagedInsert):
                    done = copied(transaction, staged, parameters, at_once)
                    if done is not None:
                        return done, Steps(())
                else:
                    _beside_movers(transaction, staged, parameters)
                result = select(transaction, staged.source, parameters, transaction.topology, True)
                found = Found(type_names(transaction, result.description), result.rows)
                _check_size(found, transaction.around.max_gather_bytes)
                steps = staged.steps(found, parameters, transaction.topology)
                if isinstance(staged, StagedChange) and steps.guard is not None:
                    keep_out(transaction, staged.table.name, (step.shard for step in steps.steps), moving=True)
                return _carried_out(transaction, steps, parameters, at_once, texts), steps
        except DBAPIError as error:
            # As any statement that fails, though its savepoint was rolled back.
            raise transaction.fail(error) from error.__cause__
    raise WriteConflict(ATTEMPTS)


def _beside_movers(transaction: Transaction, staged: Staged, parameters: Parameters) -> None:
    placements = placements_of(staged.source.bind(parameters, transaction.topology), transaction.topology)
    if staged.table.sharded and len(placements) > 1:
        moving = isinstance(staged, StagedChange) and staged.moves
        keep_out(transaction, staged.table.name, (it.shard for it in placements), moving=moving)


def _check_size(found: Found, limit: int) -> None:
    size = sum(len(text) for row in found.rows for text in row if text is not None)
    if size > limit:
        raise GatherTooLarge(size, limit)


class _Changed(Exception):
    """Rows that were found are no longer the same."""


def _carried_out(
    transaction: Transaction, steps: Steps, parameters: Parameters, at_once: bool, texts: bool
) -> RoutedResult:
    if steps.guard is not None:
        _pass(transaction, steps.guard)
    steps = beside_movers(transaction, steps)
    if steps.moment:
        parameters = {**parameters, MOMENT: transaction.now(steps.steps[0].shard)}
    if at_once and (steps.new or alone(transaction, steps)):
        return _joined(steps.steps, write_at_once(transaction, steps, parameters, texts))
    results = []
    for step in steps.steps:
        placements = [step.placement] if step.placement else []
        result = transaction.on_shard(step.shard, step.sql, {**parameters, **step.parameters}, placements, True, texts)
        if step.expected is not None and result.rowcount != step.expected:
            raise _Changed
        results.append(result)
    if steps.copies is not None:
        return _alike(transaction, steps, steps.copies, results)
    return _joined(steps.steps, results)


def _pass(transaction: Transaction, guard: Step) -> None:
    """Raise if there is a reason against it."""
    reasons = transaction.on_shard(guard.shard, guard.sql, {}, [guard.placement] if guard.placement else [], False).rows
    if reasons:
        raise refuse("SP138", ", ".join(row[0] for row in reasons))


def _lock_copies(transaction: Transaction, copies: Copies) -> None:
    """All copies of a reference table are locked before any is read, and the shards are all there are."""
    if transaction.isolation != "READ COMMITTED":
        raise refuse("SP134")
    for shard in sorted(transaction.topology.shard_map.shards):
        transaction.on_shard(shard, copies.lock, {}, [], True)
    check_all_shards(transaction)


def _alike(transaction: Transaction, steps: Steps, copies: Copies, results: list[RoutedResult]) -> RoutedResult:
    """One result of all copies of a reference table, which must be the same."""
    found = results[0]
    if not copies.checked:
        return found
    changed = [sorted(row[-1] for row in result.rows) for result in results]
    if any(rows != changed[0] for rows in changed):
        told = ", ".join(f"{step.shard}: {len(rows)} rows" for step, rows in zip(steps.steps, changed, strict=True))
        error = SchemaDrift(
            f"the shards would change a reference table differently ({told}): a default or a trigger gives another "
            "value on each, or its copies differ already; nothing was changed"
        )
        raise transaction.give_up(error)
    if not copies.returns:
        return RoutedResult(None, [], found.rowcount)
    return RoutedResult(found.description[:-1], [row[:-1] for row in found.rows], found.rowcount)


def _joined(steps: tuple[Step, ...], results: list[RoutedResult]) -> RoutedResult:
    """One result of all: where each row to insert gave one row, in their order."""
    told = [both for both in zip(steps, results, strict=True) if not both[0].quiet]
    steps, results = tuple(step for step, _ in told), [result for _, result in told]
    if len(results) == 1:
        return results[0]
    rows = [row for result in results for row in result.rows]
    if all(step.rows and len(step.rows) == len(result.rows) for step, result in zip(steps, results, strict=True)):
        placed = sorted(zip((place for step in steps for place in step.rows), rows, strict=True), key=lambda it: it[0])
        rows = [row for _, row in placed]
    # TRUNCATE tells no number: -1.
    return RoutedResult(results[0].description, rows, max(-1, sum(result.rowcount for result in results)))
