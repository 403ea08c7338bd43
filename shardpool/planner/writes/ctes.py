"""Statements with UPDATE or DELETE in their WITH, where each partition can do its part by itself.

All parts of such a statement see the rows as they were before it. So it means in each partition what it means over all
if the SELECT does that has, instead of each write, the rows which that returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, is_a, kind, unwrap
from shardpool.planner.keyed import KeyedStatement, assigned_keys
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.plan import Concatenation, PushdownPlan, SinglePlan
from shardpool.planner.refusals import refuse
from shardpool.planner.rewrite import copied, expression, target
from shardpool.planner.statement import Statement
from shardpool.planner.words import on_search_path
from shardpool.planner.writes.own_keys import are_key, origin_of
from shardpool.planner.writes.partitions import changed_rows, still_words
from shardpool.planner.writes.staged import compile_source
from shardpool.planner.writes.steps import Step, Steps, in_partition, returned, target_of
from shardpool.topology.shard_map import Topology

_CHANGES = ("update_stmt", "delete_stmt")


@dataclass(frozen=True)
class WriteTogether:
    """`main` reads what the statement itself reads, `parts` what its writes do."""

    keyed: KeyedStatement
    still: KeyedStatement | None
    main: CompiledQuery
    parts: tuple[CompiledQuery, ...]

    def bind(self, parameters: Mapping[str, Any], topology: Topology) -> Steps:
        wanted = self._partitions(parameters, topology)
        keyed = self.still if self.still is not None and len(wanted) > 1 else self.keyed
        placements = [topology.shard_map.placement(number) for number in wanted]
        placements.sort(key=lambda it: (it.shard, it.partition.id))
        steps = tuple(Step(it.shard, in_partition(keyed, it.partition, topology), it) for it in placements)
        return Steps(steps, moment=keyed is not self.keyed)

    def _partitions(self, parameters: Mapping[str, Any], topology: Topology) -> set[int]:
        found: set[int] = set()
        plans = [it.bind(parameters, topology) for it in (self.main, *self.parts)]
        for plan in plans:
            match plan:
                case SinglePlan():
                    found.add(plan.placement.partition.id)
                case PushdownPlan(merge=Concatenation(limit=None, offset=None)):
                    found |= {partition.id for partitions in plan.by_shard.values() for partition in partitions}
                case _:
                    told = [reason.text for reason in plan.reasons if reason.rung == "pushdown"]
                    raise refuse("SP102", (told or ["its rows are not each partition's own"])[0])
        if isinstance(plans[0], SinglePlan) and len(found) > 1:
            raise refuse("SP102", "the statement reads one partition, and its WITH writes others")
        return found


def compile_with(statement: Statement, topology: Topology) -> WriteTogether:
    """A statement that has writes in its WITH. Raise `RoutingError` or `UnsupportedStatement`."""
    node = unwrap(statement.node)
    replaced = pb.WithClause()
    parts = []
    if node.with_clause.recursive:
        raise refuse("SP102", "WITH RECURSIVE")
    for cte in node.with_clause.ctes:
        copy = copied(cte)
        query = cte.common_table_expr.ctequery
        if kind(query) in _CHANGES:
            parts.append(_part(statement.lightened(query), topology))
            copy.common_table_expr.ctequery.CopyFrom(pb.Node(select_stmt=_returned_rows(query)))
        elif not is_a(query, "select_stmt"):
            raise refuse("SP102", "WITH has another write than UPDATE or DELETE")
        replaced.ctes.append(copy)
    select = _main(statement, topology)
    select.with_clause.CopyFrom(replaced)
    main = compile_source(select, statement, topology)
    if is_a(statement.node, "insert_stmt"):
        _check_inserted(statement, main, topology)
    keyed = KeyedStatement(on_search_path(statement, topology), True, (), (), True)
    return WriteTogether(keyed, still_words(keyed, statement, topology), main, tuple(parts))


def _part(part: Statement, topology: Topology) -> CompiledQuery:
    """What one of the writes reads."""
    _check_key_stays(part, topology)
    if unwrap(part.node).HasField("with_clause"):
        raise refuse("SP102", "WITH inside of WITH")
    return compile_source(changed_rows(part.node), part, topology)


def _check_key_stays(change: Statement, topology: Topology) -> None:
    table = target_of(change, topology)
    changes = unwrap(change.node).target_list if is_a(change.node, "update_stmt") else ()
    if not table.sharded:
        raise refuse("SP102", f"{table.name} is a reference table")
    if list(assigned_keys(changes, table, change)):
        raise refuse("SP102", f"the partition key of {table.name} is assigned")


def _returned_rows(change: Tree) -> Tree:
    """``SELECT <RETURNING> FROM <target>, <FROM> WHERE ...``"""
    select = changed_rows(change)
    del select.target_list[:]
    write = unwrap(change)
    if returned(write):
        select.target_list.extend(write.returning_clause.exprs)
    else:
        select.target_list.append(target(expression("1")))
    return select


def _main(statement: Statement, topology: Topology) -> Tree:
    """What the statement itself reads."""
    node = statement.node
    match kind(node):
        case "select_stmt":
            return copied(node.select_stmt)
        case "insert_stmt":
            insert = node.insert_stmt
            select = insert.select_stmt
            if insert.HasField("on_conflict_clause") or not is_a(select, "select_stmt"):
                raise refuse("SP102", "INSERT with WITH has ON CONFLICT, or no SELECT")
            if select.select_stmt.HasField("with_clause"):
                raise refuse("SP102", "WITH both before INSERT and before its SELECT")
            return copied(select.select_stmt)
        case "update_stmt" | "delete_stmt":
            _check_key_stays(statement, topology)
            return changed_rows(node)
    raise refuse("SP102", kind(node).removesuffix("_stmt").upper())


def _check_inserted(statement: Statement, main: CompiledQuery, topology: Topology) -> None:
    """The rows of INSERT must stay where those are that they come from."""
    insert = statement.node.insert_stmt
    table = target_of(statement, topology)
    if not table.sharded:
        raise refuse("SP102", f"{table.name} is a reference table")
    columns = [node.res_target.name for node in insert.cols] or [column.name for column in table.columns]
    select = main.statement.node.select_stmt
    origins = main.analysis.scope_of(select).origins if select.op == pb.SETOP_NONE else ()
    if not set(table.key) <= set(columns[: len(origins)]):
        raise refuse("SP102", f"the partition key of the rows for {table.name} is not certain")
    if not are_key([origin_of(origins[columns.index(name)]) for name in table.key], table):
        raise refuse("SP102", f"the partition key of the rows for {table.name} is not theirs before")
    for node in returned(insert):
        if not is_a(node, "column_ref"):
            raise refuse("SP102", "RETURNING of INSERT has more than columns")
