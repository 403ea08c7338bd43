"""Writes over several partitions: from a statement to what each partition, or each shard, executes of it.

`compile_write` chooses by kind and target: `rows` (INSERT of VALUES, each row to its partition), `partitions` (UPDATE,
DELETE and INSERT .. SELECT that mean in each partition what they mean over all), `merges` (MERGE alike), `ctes` (writes
in WITH), `everywhere` (reference tables, and TRUNCATE). The user's words are sent; of VALUES, those rows that belong
there. What is not proven to mean the same so is done in two halves (`staged`): a query finds the rows, which are then
written where they belong, by `inserts`, `changes`, `merges` and `pairs`; or a write in WITH is done, and then read
(`apart`).
Whatever is not proven either way is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from postgast import pg_query_pb2 as pb

from shardpool.errors import CrossShardTransaction, ShardpoolError, UnsupportedStatement
from shardpool.planner.ast import Tree, column_fields, is_a, kind, unwrap, walk
from shardpool.planner.depth import at_any_depth
from shardpool.planner.ladder import CompiledQuery, compile_query
from shardpool.planner.plan import SinglePlan
from shardpool.planner.refusals import refuse
from shardpool.planner.safety import check_session
from shardpool.planner.scopes import SYSTEM_COLUMNS
from shardpool.planner.statement import Statement
from shardpool.planner.views import expanded
from shardpool.planner.writes.apart import Apart, split
from shardpool.planner.writes.changes import StagedChange, compile_staged_change
from shardpool.planner.writes.ctes import compile_with
from shardpool.planner.writes.everywhere import compile_reference, compile_truncate
from shardpool.planner.writes.guarded import Guarded, guarded_table, returns_both, updates_on_conflict, with_hidden
from shardpool.planner.writes.inserts import Copied, StagedInsert, compile_staged_insert
from shardpool.planner.writes.merges import StagedMerge, compile_merge, compile_merged_copies, compile_staged_merge
from shardpool.planner.writes.pairs import compile_paired_merge
from shardpool.planner.writes.partitions import compile_partitions
from shardpool.planner.writes.rows import compile_rows, has_rows, without_constant_rows
from shardpool.planner.writes.steps import (
    CompiledWrite,
    Copies,
    Found,
    Staged,
    Step,
    Steps,
    modifying_ctes,
    target_of,
)
from shardpool.topology.shard_map import Placement, Topology

__all__ = [
    "Apart",
    "CompiledWrite",
    "Copied",
    "Copies",
    "Found",
    "Guarded",
    "Staged",
    "StagedChange",
    "StagedInsert",
    "StagedMerge",
    "Step",
    "Steps",
    "chosen",
    "compile_statement",
    "compile_write",
    "within",
]

T = TypeVar("T")

#: The kinds of nodes that `compile_write` takes.
_WRITES = ("insert_stmt", "update_stmt", "delete_stmt", "merge_stmt", "truncate_stmt")
#: Refusals of the user's words as they are, which finding the rows first may get around.
_WAY_OUT = ("SP102", "SP113", "SP114", "SP132", "SP133", "SP136")


def compile_statement(statement: Statement, topology: Topology) -> CompiledQuery | CompiledWrite:
    """Analyse a statement of `Router.query`. Raise `InvalidSQL`, `RoutingError` or `UnsupportedStatement`."""
    statement = expanded(statement, topology)
    if kind(statement.node) in _WRITES or modifying_ctes(statement):
        return compile_write(statement, topology)
    return compile_query(statement, topology)


def compile_write(statement: Statement, topology: Topology) -> CompiledWrite:
    """Analyse a write of `Router.query`. Raise `RoutingError` or `UnsupportedStatement`."""
    if is_a(statement.node, "truncate_stmt"):
        return compile_truncate(statement, topology)
    light = without_constant_rows(statement)
    unknown = check_session(light.node, topology)
    if unknown is not None:
        raise refuse("SP135", unknown)
    _check_system_columns(light.node)
    table = guarded_table(light, topology)
    if modifying_ctes(light):
        if table is not None:
            return FirstProven(statement.unparsed(), None, refuse("SP139", table.name))
        return FirstProven(statement.unparsed(), *_attempt(lambda: compile_with(statement, topology)))
    if table is None:
        return FirstProven(statement.unparsed(), *_attempt(lambda: _direct(statement, light, topology)))
    verb = kind(statement.node).removesuffix("_stmt")
    both = returns_both(statement.node, table)
    whole = with_hidden(statement, table, both)
    # What an UPDATE replaces must be found first: RETURNING has the new values only.
    if verb == "update":
        inner = FirstProven(whole, None, refuse("SP132", "it changes a unique column"))
    else:
        light = without_constant_rows(whole)
        inner = FirstProven(whole.unparsed(), *_attempt(lambda: _direct(whole, light, topology)))
    returns = bool(unwrap(statement.node).returning_clause.exprs)
    return Guarded(inner, table, verb, returns, updates_on_conflict(statement.node) and not both, both)


def _check_system_columns(node: Tree) -> None:
    for it in walk(node):
        # xmax is 0 in new rows, wherever they are: what ON CONFLICT DO UPDATE is asked for.
        if isinstance(it, pb.ColumnRef) and column_fields(it)[-1] in SYSTEM_COLUMNS - {"xmax"}:
            raise refuse("SP105", column_fields(it)[-1])


def _direct(statement: Statement, light: Statement, topology: Topology) -> CompiledWrite:
    if kind(statement.node) == "merge_stmt":
        return compile_merge(statement, topology)
    if not target_of(statement, topology).sharded:
        return compile_reference(statement, topology)
    if kind(statement.node) == "insert_stmt" and has_rows(statement):
        return compile_rows(statement, light, topology)
    return compile_partitions(statement, topology)


def _staged(statement: Statement, topology: Topology) -> Staged | Apart:
    if modifying_ctes(statement):
        inner, words = split(statement, topology)
        return Apart(compile_write(inner, topology), words)
    match kind(statement.node):
        case "insert_stmt":
            return compile_staged_insert(statement, topology)
        case "merge_stmt":
            if not target_of(statement, topology).sharded:
                return compile_merged_copies(statement, topology)
            by_key, _ = _attempt(lambda: compile_staged_merge(statement, topology))
            return by_key or compile_paired_merge(statement, topology)
        case _:
            return compile_staged_change(statement, topology)


def _attempt(work: Callable[[], T]) -> tuple[T | None, ShardpoolError | None]:
    """What *work* returns, or why it is refused."""
    try:
        return work(), None
    except CrossShardTransaction as error:
        return None, error
    except UnsupportedStatement as error:
        if error.code not in _WAY_OUT:
            raise
        return None, error


@dataclass(frozen=True)
class FirstProven:
    """A write by the user's own words if these are proven to do, else in two halves."""

    statement: Statement
    direct: CompiledWrite | None
    refusal: ShardpoolError | None
    _found: dict[str, tuple[Staged | Apart | None, ShardpoolError | None]] = field(default_factory=dict, compare=False)

    def bind(self, parameters: Mapping[str, Any], topology: Topology) -> Steps | Staged | Apart:
        return self.chosen(parameters, topology)[0]

    def chosen(self, parameters: Mapping[str, Any], topology: Topology) -> tuple[Steps | Staged | Apart, str]:
        """Return what `bind` does, and why not the words as they are, or ""."""
        direct, refusal = self.direct, self.refusal
        if direct is not None:
            steps, refusal = _attempt(lambda: direct.bind(parameters, topology))
            if steps is not None:
                return steps, ""
        assert refusal is not None
        if "staged" not in self._found:
            self._found["staged"] = _attempt(lambda: at_any_depth(lambda: _staged(self.statement, topology)))
        staged, also = self._found["staged"]
        if staged is None:
            raise _both(refusal, also)
        return staged, refusal.message if isinstance(refusal, UnsupportedStatement) else str(refusal)


def chosen(
    compiled: CompiledWrite, parameters: Mapping[str, Any], topology: Topology
) -> tuple[Steps | Staged | Apart, str]:
    """Return how a write is carried out, and why not by its own words, or "". Raises as `CompiledWrite.bind`."""
    if isinstance(compiled, Guarded):
        return chosen(compiled.inner, parameters, topology)
    if isinstance(compiled, FirstProven):
        return compiled.chosen(parameters, topology)
    return compiled.bind(parameters, topology), ""


def within(
    compiled: CompiledWrite, placement: Placement, parameters: Mapping[str, Any], topology: Topology
) -> Steps | Staged:
    """Bind a write of a table with unique columns that may concern one partition only. Raise `UnsupportedStatement`
    where that is not certain, and as `CompiledWrite.bind`."""
    steps = compiled.bind(parameters, topology)
    places: set[Placement | None] = set()
    match steps:
        case Steps():
            places = {step.placement for step in steps.steps}
        case StagedChange(insert=""):
            plan = steps.source.bind(parameters, topology)
            places = {plan.placement} if isinstance(plan, SinglePlan) else set()
    if places != {placement}:
        raise refuse("SP139", "its words do not say that all rows are in the partition of this call")
    assert not isinstance(steps, Apart)
    return steps


def _both(refusal: ShardpoolError, also: ShardpoolError | None) -> ShardpoolError:
    """The refusal of the words as they are, which also says why the rows are not found first."""
    if isinstance(refusal, UnsupportedStatement) and isinstance(also, UnsupportedStatement):
        text = refusal.message if also.message == refusal.message else f"{refusal.message}; found first: {also.message}"
        return UnsupportedStatement(refusal.code, text, refusal.hint)
    if isinstance(refusal, CrossShardTransaction) and isinstance(also, UnsupportedStatement):
        return CrossShardTransaction(f"{refusal}; found first: {also.message}")
    return refusal
