"""Queries inside a transaction: every row is read on the transaction's own connections, so that its writes are seen.

The result is made on one more connection, apart from them: the temporary tables of a merge would keep the transaction
from being prepared. It reads nothing by itself: reference tables, too, are copied to it from the transaction.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import psycopg2
from psycopg2 import errorcodes
from sqlalchemy.exc import DBAPIError

from shardpool.engines import Engines
from shardpool.executor.lent import LentPools
from shardpool.executor.merge import Merger
from shardpool.executor.queries import gives_way, placements_of
from shardpool.executor.results import RoutedResult
from shardpool.executor.row_locks import locked_copies, locked_everywhere, locked_rows
from shardpool.executor.trace import Trace
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.locks import RowLocks
from shardpool.planner.plan import Concatenation, GatherPlan, Plan, PushdownPlan, ReferencePlan, Relation, SinglePlan
from shardpool.planner.refusals import refuse
from shardpool.planner.words import over_gathered
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

if TYPE_CHECKING:
    from shardpool.executor.transaction import Transaction


#: Why a transaction has no stages.
IN_TRANSACTION = "temporary tables of a transaction's own would keep it from being prepared"


def select(
    transaction: Transaction,
    compiled: CompiledQuery,
    parameters: Mapping[str, Any],
    topology: Topology,
    texts: bool = False,
) -> RoutedResult:
    """Answer a SELECT with the pinned topology. *texts*: values as the server spells them. Raises as
    `Router.query`; refuses functions whose reads and writes are unknown."""
    if compiled.unknown_function is not None:
        raise refuse("SP130", compiled.unknown_function)
    failed = {"stages": IN_TRANSACTION}
    plan = compiled.bind(parameters, topology, failed=failed, locking=True)
    if isinstance(plan, PushdownPlan) and plan.reads_tables:
        failed["pushdown"] = "the merge query would not see what the transaction wrote"
        plan = compiled.bind(parameters, topology, failed=failed)
    try:
        if compiled.locks is not None:
            return _locked(transaction, compiled.locks, plan, parameters, texts)
        return _run(transaction, compiled, plan, parameters, texts)
    except DBAPIError as error:
        code = str(getattr(error.orig, "pgcode", None))
        # After TRUNCATE, the session apart cannot even ask what the columns of partial rows are like.
        locked = isinstance(plan, PushdownPlan) and not plan.locks and code == errorcodes.LOCK_NOT_AVAILABLE
        rung = "pushdown" if locked else gives_way(plan, code)
        if rung is None:
            raise
        failed[rung] = f"PostgreSQL refused it: {error.orig}".strip()
        return _run(transaction, compiled, compiled.bind(parameters, topology, failed=failed), parameters, texts)


def _locked(
    transaction: Transaction, locks: RowLocks, plan: Plan, parameters: Mapping[str, Any], texts: bool
) -> RoutedResult:
    match plan:
        case SinglePlan():
            locks.check_copies()
            return transaction.on_shard(
                plan.placement.shard, plan.sql, parameters, [plan.placement], False, texts, True
            )
        case ReferencePlan() if locks.exclusive_reference:
            return locked_everywhere(transaction, plan.sql, parameters, texts)
        case ReferencePlan():
            return transaction.on_shard(_any_shard(transaction), plan.sql, parameters, [], False, texts, True)
        case PushdownPlan() if isinstance(plan.merge, Concatenation):
            return locked_rows(transaction, plan, parameters, texts)
        case PushdownPlan():
            held = locked_copies(transaction, plan, parameters)
            return _merge(transaction, plan, plan, min(plan.by_shard), parameters, texts, held)
    raise AssertionError(f"no rows are locked by a {type(plan).__name__}")


def _run(
    transaction: Transaction, compiled: CompiledQuery, plan: Plan, parameters: Mapping[str, Any], texts: bool
) -> RoutedResult:
    match plan:
        case SinglePlan():
            return transaction.on_shard(plan.placement.shard, plan.sql, parameters, [plan.placement], False, texts)
        case ReferencePlan():
            return transaction.on_shard(_any_shard(transaction), plan.sql, parameters, [], False, texts)
        case PushdownPlan():
            return _merge(transaction, plan, plan, min(plan.by_shard), parameters, texts)
        case GatherPlan():
            whole = _with_reference_tables(transaction, compiled, plan)
            home = min(shard for relation in whole.relations for shard in relation.by_shard)
            return _merge(transaction, plan, whole, home, parameters, texts)
    raise AssertionError(f"a transaction has no {type(plan).__name__}")


def _merge(
    transaction: Transaction,
    plan: Plan,
    run: PushdownPlan | GatherPlan,
    home: str,
    parameters: Mapping[str, Any],
    texts: bool,
    held: Mapping[str, bytes] = MappingProxyType({}),
) -> RoutedResult:
    merger = _merger(transaction, home, texts, held)
    placements = placements_of(plan, transaction.topology)
    try:
        result = merger.run(run, parameters, transaction.topology, Trace())
    except psycopg2.Error as error:
        raise transaction.failed(error, None, "", placements) from error
    except BaseException as error:
        transaction.note_failure(error)
        raise
    transaction.check_in_place(placements)
    return result


def _any_shard(transaction: Transaction) -> str:
    """A shard that takes part already, or any."""
    return next(iter(transaction.shards), None) or random.choice(list(transaction.topology.shard_map.by_shard()))


def _with_reference_tables(transaction: Transaction, compiled: CompiledQuery, plan: GatherPlan) -> GatherPlan:
    found: dict[str, Table] = {}
    for item in compiled.analysis.occurrences:
        if item.table is not None and not item.table.sharded:
            found[item.table.name] = item.table
    if not found:
        return plan
    shard = _any_shard(transaction)
    # Read once: for any one partition of the shard.
    somewhere = {shard: transaction.topology.shard_map.by_shard()[shard][:1]}
    relations = [
        Relation(
            table.name,
            table.name,
            table.columns,
            table.primary_key,
            (),
            _whole(table, transaction.topology.keyspace),
            somewhere,
        )
        for table in found.values()
    ]
    words = over_gathered(compiled.statement, transaction.topology, everything=True)
    return replace(plan, relations=(*plan.relations, *relations), sql=words)


def _whole(table: Table, keyspace: str) -> str:
    columns = ", ".join(quote(column.name) for column in table.columns)
    return f"SELECT {columns} FROM {quote(keyspace)}.{quote(table.name)}".replace("%", "%%")


def _merger(transaction: Transaction, home: str, texts: bool, held: Mapping[str, bytes]) -> Merger:
    around = transaction.around
    pools = cast(Engines, LentPools(transaction, entered=True, home=home))
    return Merger(pools, around.threads, around.max_gather_bytes, None, apart=home, texts=texts, held=held)
