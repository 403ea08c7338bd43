"""Writes over several partitions: their steps, one after another in one transaction.

The shards are taken in the order of their names, so that two such writes never wait for each other on two shards. What
is one step on one shard is sent by itself, in one round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import psycopg2

from shardpool.engines.translate import translate
from shardpool.errors import SchemaDrift, StalePlacement
from shardpool.executor.current import CurrentTopology
from shardpool.executor.results import RoutedResult
from shardpool.executor.statements import MAX_RETRIES, Statements
from shardpool.planner.refusals import refuse
from shardpool.planner.writes import CompiledWrite, Copies, Step, Steps

if TYPE_CHECKING:
    from shardpool.executor.transaction import Transaction

Parameters = Mapping[str, Any]


class Writes:
    """Carries out compiled writes, each as a transaction of its own."""

    def __init__(self, current: CurrentTopology, statements: Statements, begin: Callable[[], Transaction]) -> None:
        self._current = current
        self._statements = statements
        self._begin = begin

    def answer(self, compiled: CompiledWrite, parameters: Parameters) -> RoutedResult:
        """Raises as `Router.query`; `InDoubt` and `CannotPrepare` where several shards are written."""
        retries = 0
        while True:
            topology = self._current.value
            steps = compiled.bind(parameters, topology)
            if len(steps.steps) != 1 or steps.copies:
                return self._together(compiled, parameters)
            (step,) = steps.steps
            try:
                return self._statements.on_shard(step.shard, step.sql, parameters, writes=True)
            except psycopg2.Error as error:
                retries += 1
                placements = [step.placement] if step.placement is not None else []
                if retries > MAX_RETRIES or not self._current.moved(topology, placements):
                    raise translate(error, None, step.shard, step.sql, writes=True) from error

    def _together(self, compiled: CompiledWrite, parameters: Parameters) -> RoutedResult:
        retries = 0
        while True:
            try:
                with self._begin() as transaction:
                    return write(transaction, compiled, parameters)
            except StalePlacement:
                retries += 1
                if retries > MAX_RETRIES:
                    raise


def write(transaction: Transaction, compiled: CompiledWrite, parameters: Parameters) -> RoutedResult:
    """Carry out a write as a part of *transaction*."""
    steps = compiled.bind(parameters, transaction.topology)
    if steps.copies is not None:
        return _on_copies(transaction, steps, steps.copies, parameters)
    results = [
        transaction.on_shard(step.shard, step.sql, parameters, [step.placement] if step.placement else [], True)
        for step in steps.steps
    ]
    return _joined(steps.steps, results)


def _on_copies(transaction: Transaction, steps: Steps, copies: Copies, parameters: Parameters) -> RoutedResult:
    """Change every copy of a reference table. All are locked before any is read, and the shards are all there are."""
    if transaction.isolation != "READ COMMITTED":
        raise refuse("SP134")
    for step in steps.steps:
        transaction.on_shard(step.shard, copies.lock, {}, [], True)
    if not transaction.around.current.has_all_shards(transaction.topology):
        raise transaction.give_up(StalePlacement("a shard joined or left since the transaction began: run it again"))
    results = {step.shard: transaction.on_shard(step.shard, step.sql, parameters, [], True) for step in steps.steps}
    found = next(iter(results.values()))
    if not copies.checked:
        return found
    changed = {shard: sorted(row[-1] for row in result.rows) for shard, result in results.items()}
    if any(rows != changed[steps.steps[0].shard] for rows in changed.values()):
        told = ", ".join(f"{shard}: {len(rows)} rows" for shard, rows in changed.items())
        error = SchemaDrift(
            f"the shards would change a reference table differently ({told}): a default or a trigger gives another "
            "value on each, or its copies differ already; nothing was changed"
        )
        raise transaction.give_up(error)
    if not copies.returns:
        return RoutedResult(None, [], found.rowcount)
    return RoutedResult(found.description[:-1], [row[:-1] for row in found.rows], found.rowcount)


def _joined(steps: tuple[Step, ...], results: list[RoutedResult]) -> RoutedResult:
    """One result of all: where each row of VALUES gave one row, in their order."""
    if len(results) == 1:
        return results[0]
    rows = [row for result in results for row in result.rows]
    if all(step.rows and len(step.rows) == len(result.rows) for step, result in zip(steps, results, strict=True)):
        placed = sorted(zip((place for step in steps for place in step.rows), rows, strict=True), key=lambda it: it[0])
        rows = [row for _, row in placed]
    # TRUNCATE tells no number: -1.
    return RoutedResult(results[0].description, rows, max(-1, sum(result.rowcount for result in results)))
