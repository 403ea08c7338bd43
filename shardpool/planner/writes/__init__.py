"""Writes over several partitions: from a statement to what each partition, or each shard, executes of it.

`compile_write` chooses by kind and target: `rows` (INSERT of VALUES, each row to its partition), `partitions` (UPDATE,
DELETE and INSERT .. SELECT that mean in each partition what they mean over all), `everywhere` (reference tables, and
TRUNCATE). The user's words are sent; of VALUES, those rows that belong there. Whatever is not proven is refused.
"""

from __future__ import annotations

from shardpool.planner.ast import is_a, kind
from shardpool.planner.ladder import CompiledQuery, compile_query
from shardpool.planner.refusals import refuse
from shardpool.planner.safety import check_session
from shardpool.planner.statement import Statement
from shardpool.planner.writes.everywhere import compile_reference, compile_truncate
from shardpool.planner.writes.partitions import compile_partitions
from shardpool.planner.writes.rows import compile_rows, has_rows
from shardpool.planner.writes.steps import CompiledWrite, Copies, Step, Steps, modifying_ctes, target_of
from shardpool.topology.shard_map import Topology

__all__ = ["CompiledWrite", "Copies", "Step", "Steps", "compile_statement", "compile_write"]

#: The kinds of nodes that `compile_write` takes.
_WRITES = ("insert_stmt", "update_stmt", "delete_stmt", "truncate_stmt")


def compile_statement(statement: Statement, topology: Topology) -> CompiledQuery | CompiledWrite:
    """Analyse a statement of `Router.query`. Raise `InvalidSQL`, `RoutingError` or `UnsupportedStatement`."""
    if kind(statement.node) in _WRITES:
        return compile_write(statement, topology)
    return compile_query(statement, topology)


def compile_write(statement: Statement, topology: Topology) -> CompiledWrite:
    """Analyse a write of `Router.query`. Raise `RoutingError` or `UnsupportedStatement`."""
    if is_a(statement.node, "truncate_stmt"):
        return compile_truncate(statement, topology)
    if modifying_ctes(statement):
        raise refuse("SP102")
    unknown = check_session(statement.node, topology)
    if unknown is not None:
        raise refuse("SP135", unknown)
    if not target_of(statement, topology).sharded:
        return compile_reference(statement, topology)
    if kind(statement.node) == "insert_stmt" and has_rows(statement):
        return compile_rows(statement, topology)
    return compile_partitions(statement, topology)
