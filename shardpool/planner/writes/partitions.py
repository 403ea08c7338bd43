"""UPDATE, DELETE and INSERT .. SELECT that run in each partition by themselves.

The proof is the planner's own for SELECT: over the same tables, joins and conditions, and with the new values and the
RETURNING expressions as columns, it must have a plan whose answer is the concatenation of the partitions' answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, is_a, kind, unwrap, walk
from shardpool.planner.keyed import KeyedStatement, WrittenKey, assigned_keys, compile_keyed, updated_keys
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.moment import at_one_moment
from shardpool.planner.plan import ByShard, Concatenation, PushdownPlan, SinglePlan
from shardpool.planner.refusals import refuse
from shardpool.planner.rewrite import copied, expression, target
from shardpool.planner.safety import not_repeatable
from shardpool.planner.statement import Statement
from shardpool.planner.writes.staged import compile_source, generated
from shardpool.planner.writes.steps import Step, Steps, check_assigned, expressions, in_partition, returned, target_of
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table


@dataclass(frozen=True)
class WritePartitions:
    """`source` is the SELECT whose plan tells the partitions.

    `still`: the statement with the current time as a parameter, for several partitions; None if it does not ask for it.
    `new`: it is an INSERT without ON CONFLICT.
    """

    table: str
    keyed: KeyedStatement
    assigned: tuple[WrittenKey, ...]
    source: CompiledQuery
    still: KeyedStatement | None
    new: bool = False

    def bind(self, parameters: Mapping[str, Any], topology: Topology) -> Steps:
        by_shard = self._partitions(parameters, topology)
        several = sum(map(len, by_shard.values())) > 1
        keyed = self.still if self.still is not None and several else self.keyed
        steps = []
        for shard, partitions in sorted(by_shard.items()):
            for partition in partitions:
                check_assigned(self.assigned, partition, parameters, topology)
                placement = topology.shard_map.placement(partition)
                steps.append(Step(shard, in_partition(keyed, partition, topology), placement))
        return Steps(tuple(steps), moment=keyed is not self.keyed, new=self.new, table=self.table)

    def _partitions(self, parameters: Mapping[str, Any], topology: Topology) -> ByShard:
        plan = self.source.bind(parameters, topology)
        match plan:
            case SinglePlan():
                return {plan.placement.shard: (plan.placement.partition,)}
            case PushdownPlan(merge=Concatenation(limit=None, offset=None)):
                # Where no key can match, one partition still tells the columns of an empty answer.
                return plan.by_shard or topology.shard_map.by_shard([topology.shard_map.partitions[0].id])
            case _:
                told = [reason.text for reason in plan.reasons if reason.rung == "pushdown"]
                raise refuse("SP132", (told or ["its rows are not each partition's own"])[0])


def compile_partitions(statement: Statement, topology: Topology) -> WritePartitions:
    keyed = compile_keyed(statement, topology)
    node = unwrap(statement.node)
    table = target_of(statement, topology)
    if kind(statement.node) == "insert_stmt":
        assigned, select = updated_keys(node, table, statement), _inserted_rows(node, topology)
    else:
        changes = node.target_list if kind(statement.node) == "update_stmt" else ()
        assigned, select = assigned_keys(changes, table, statement), changed_rows(statement.node)
    source = compile_source(select, statement, topology)
    new = kind(statement.node) == "insert_stmt" and not node.HasField("on_conflict_clause")
    return WritePartitions(table.name, keyed, tuple(assigned), source, still_words(keyed, statement, topology), new)


def still_words(keyed: KeyedStatement, statement: Statement, topology: Topology) -> KeyedStatement | None:
    """The statement with the current time as a parameter; None if it does not ask for it."""
    still = at_one_moment(statement, topology)
    return None if still is statement else replace(keyed, template=(generated(unwrap(still.node), still, topology),))


def changed_rows(node: Tree) -> Tree:
    """``SELECT <new values>, <RETURNING> FROM <target>, <FROM> WHERE ...`` of an UPDATE or DELETE."""
    write = unwrap(node)
    select = pb.SelectStmt(limit_option=pb.LIMIT_OPTION_DEFAULT, op=pb.SETOP_NONE)
    select.from_clause.append(pb.Node(range_var=copied(write.relation)))
    select.from_clause.extend(write.from_clause if is_a(node, "update_stmt") else write.using_clause)
    values = expressions(write.target_list) if is_a(node, "update_stmt") else []
    select.target_list.append(target(expression("1")))
    select.target_list.extend(target(value) for value in (*values, *returned(write)))
    if write.HasField("where_clause"):
        select.where_clause.CopyFrom(write.where_clause)
    if write.HasField("with_clause"):
        select.with_clause.CopyFrom(write.with_clause)
    return select


def _inserted_rows(insert: Tree, topology: Topology) -> Tree:
    """The SELECT of an INSERT; without its groups, if they are each partition's own."""
    if insert.HasField("with_clause"):
        raise refuse("SP132", "WITH before INSERT .. SELECT")
    select = copied(insert.select_stmt.select_stmt)
    conflict = insert.on_conflict_clause
    conditions = [conflict.where_clause] if conflict.HasField("where_clause") else []
    for value in (*returned(insert), *expressions(conflict.target_list), *conditions):
        reason = None if is_a(value, "column_ref") else not_repeatable(value, topology)
        if reason is not None:
            raise refuse("SP133", reason)
    for name in ("sort_clause", "group_clause"):
        if name == "group_clause" and not _groups_by_key(select, topology):
            continue
        if name == "sort_clause" and (select.HasField("limit_count") or select.HasField("limit_offset")):
            continue
        if name == "group_clause":
            for node in select.target_list:
                reason = not_repeatable(node.res_target.val, topology, whole=True)
                inner = walk(node)
                if reason is not None or any(isinstance(it, pb.SubLink | pb.WindowDef) for it in inner):
                    raise refuse("SP133", reason or "a subquery or window")
            del select.target_list[:]
            select.target_list.append(target(expression("1")))
        del getattr(select, name)[:]
    return select


def _groups_by_key(select: Tree, topology: Topology) -> bool:
    """Whether rows of one group are always in one partition: the groups are by the one table's whole key."""
    if select.HasField("having_clause") or len(select.from_clause) != 1 or not is_a(select.from_clause[0], "range_var"):
        return False
    table: Table | None = topology.tables.get(select.from_clause[0].range_var.relname)
    grouped = {column_fields(it.column_ref)[-1] for it in select.group_clause if is_a(it, "column_ref")}
    return table is not None and table.sharded and bool(grouped) and grouped >= set(table.key)
