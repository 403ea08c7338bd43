"""Statements with writes in their WITH, where each partition can do its part by itself.

All parts of such a statement see the rows as they were before it. So it means in each partition what it means over all
if the SELECT does that has, instead of each write, the rows which that returns: for UPDATE and DELETE, those that it
finds; for INSERT .. SELECT, those that it selects, if they stay where they come from. An INSERT of VALUES keeps the
whole statement to the partition of its key, and returns what any rows of this key would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, is_a, kind, unwrap
from shardpool.planner.keyed import KeyedStatement, WrittenKey, assigned_keys
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.plan import Concatenation, PushdownPlan, ReferencePlan, SinglePlan
from shardpool.planner.refusals import refuse
from shardpool.planner.rewrite import copied
from shardpool.planner.statement import Statement
from shardpool.planner.words import on_search_path
from shardpool.planner.writes.inserts_in_with import (
    after,
    check_inserted,
    check_no_with,
    inserted_values,
    returned_copies,
    returning,
    rows_of_key,
    selected,
    sharded_target,
)
from shardpool.planner.writes.partitions import changed_rows, still_words
from shardpool.planner.writes.staged import compile_source
from shardpool.planner.writes.steps import Step, Steps, in_partition, owner_of
from shardpool.topology.shard_map import Topology

_CHANGES = ("update_stmt", "delete_stmt")


@dataclass(frozen=True)
class WriteTogether:
    """`main` reads what the statement itself reads, `parts` what its writes do; `rows` are those of VALUES. `changed`
    are the tables of UPDATE and DELETE."""

    keyed: KeyedStatement
    still: KeyedStatement | None
    main: CompiledQuery
    parts: tuple[CompiledQuery, ...]
    rows: tuple[WrittenKey, ...]
    changed: tuple[str, ...]

    def bind(self, parameters: Mapping[str, Any], topology: Topology) -> Steps:
        wanted = self._partitions(parameters, topology)
        keyed = self.still if self.still is not None and len(wanted) > 1 else self.keyed
        placements = [topology.shard_map.placement(number) for number in wanted]
        placements.sort(key=lambda it: (it.shard, it.partition.id))
        steps = tuple(Step(it.shard, in_partition(keyed, it.partition, topology), it) for it in placements)
        return Steps(steps, moment=keyed is not self.keyed, changed=self.changed)

    def _partitions(self, parameters: Mapping[str, Any], topology: Topology) -> set[int]:
        found = {owner_of(row, parameters, topology).partition.id for row in self.rows}
        plans = [it.bind(parameters, topology) for it in (self.main, *self.parts)]
        for plan in plans:
            match plan:
                case SinglePlan():
                    found.add(plan.placement.partition.id)
                case PushdownPlan(merge=Concatenation(limit=None, offset=None)):
                    found |= {partition.id for partitions in plan.by_shard.values() for partition in partitions}
                case ReferencePlan() if self.rows:
                    pass  # what each shard has
                case _:
                    told = [reason.text for reason in plan.reasons if reason.rung == "pushdown"]
                    raise refuse("SP102", (told or ["its rows are not each partition's own"])[0])
        if isinstance(plans[0], SinglePlan) and len(found) > 1:
            raise refuse("SP102", "the statement reads one partition, and its WITH writes others")
        if self.rows and len(found) > 1:
            raise refuse("SP102", "its WITH inserts rows of one partition, and reads or writes others")
        return found


def compile_with(statement: Statement, topology: Topology) -> WriteTogether:
    """A statement that has writes in its WITH. Raise `RoutingError` or `UnsupportedStatement`."""
    node = unwrap(statement.node)
    replaced = pb.WithClause()
    parts: list[CompiledQuery] = []
    rows: list[WrittenKey] = []
    changed: list[str] = []
    if node.with_clause.recursive:
        raise refuse("SP102", "WITH RECURSIVE")
    for cte in node.with_clause.ctes:
        copy = copied(cte)
        query = cte.common_table_expr.ctequery
        write = statement.lightened(query)
        if kind(query) in _CHANGES:
            parts.append(_part(write, replaced, topology))
            changed.append(sharded_target(write, topology).name)
            copy.common_table_expr.ctequery.CopyFrom(pb.Node(select_stmt=_returned_rows(query)))
        elif is_a(query, "insert_stmt") and query.insert_stmt.select_stmt.select_stmt.values_lists:
            rows += inserted_values(write, topology)
            copy.common_table_expr.ctequery.CopyFrom(pb.Node(select_stmt=rows_of_key(write, topology)))
        elif is_a(query, "insert_stmt"):
            parts.append(selected(write, replaced, topology))
            copy.common_table_expr.ctequery.CopyFrom(pb.Node(select_stmt=returned_copies(write, topology)))
        elif not is_a(query, "select_stmt"):
            raise refuse("SP102", "WITH has another write than INSERT, UPDATE or DELETE")
        replaced.ctes.append(copy)
    if kind(statement.node) in _CHANGES:
        changed.append(sharded_target(statement, topology).name)
    select = _main(statement, topology)
    select.with_clause.CopyFrom(replaced)
    main = compile_source(select, statement, topology)
    if is_a(statement.node, "insert_stmt"):
        check_inserted(statement, main, topology)
    keyed = KeyedStatement(on_search_path(statement, topology), True, (), (), True)
    return WriteTogether(
        keyed, still_words(keyed, statement, topology), main, tuple(parts), tuple(rows), tuple(changed)
    )


def _part(part: Statement, before: Tree, topology: Topology) -> CompiledQuery:
    """What an UPDATE or DELETE reads, after *before* in WITH."""
    _check_key_stays(part, topology)
    check_no_with(unwrap(part.node))
    return compile_source(after(before, changed_rows(part.node)), part, topology)


def _check_key_stays(change: Statement, topology: Topology) -> None:
    table = sharded_target(change, topology)
    changes = unwrap(change.node).target_list if is_a(change.node, "update_stmt") else ()
    if list(assigned_keys(changes, table, change)):
        raise refuse("SP102", f"the partition key of {table.name} is assigned")


def _returned_rows(change: Tree) -> Tree:
    """``SELECT <RETURNING> FROM <target>, <FROM> WHERE ...``"""
    select = changed_rows(change)
    del select.target_list[:]
    select.target_list.extend(returning(unwrap(change)))
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
