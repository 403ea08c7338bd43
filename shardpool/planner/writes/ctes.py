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

from shardpool.planner.ast import Tree, column_fields, is_a, kind, unwrap, walk
from shardpool.planner.keyed import KeyedStatement, WrittenKey, assigned_keys, inserted_keys
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.plan import Concatenation, PushdownPlan, ReferencePlan, SinglePlan
from shardpool.planner.refusals import refuse
from shardpool.planner.rewrite import copied, expression, target
from shardpool.planner.statement import Statement
from shardpool.planner.words import on_search_path
from shardpool.planner.writes.own_keys import are_key, origin_of
from shardpool.planner.writes.partitions import changed_rows, still_words
from shardpool.planner.writes.staged import compile_source
from shardpool.planner.writes.steps import Step, Steps, in_partition, owner_of, returned, target_of
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

_CHANGES = ("update_stmt", "delete_stmt")
#: A SELECT from another one, to be filled.
_DERIVED = "(SELECT FROM (SELECT 1) AS {name} ({columns}))"


@dataclass(frozen=True)
class WriteTogether:
    """`main` reads what the statement itself reads, `parts` what its writes do; `rows` are those of VALUES."""

    keyed: KeyedStatement
    still: KeyedStatement | None
    main: CompiledQuery
    parts: tuple[CompiledQuery, ...]
    rows: tuple[WrittenKey, ...]

    def bind(self, parameters: Mapping[str, Any], topology: Topology) -> Steps:
        wanted = self._partitions(parameters, topology)
        keyed = self.still if self.still is not None and len(wanted) > 1 else self.keyed
        placements = [topology.shard_map.placement(number) for number in wanted]
        placements.sort(key=lambda it: (it.shard, it.partition.id))
        steps = tuple(Step(it.shard, in_partition(keyed, it.partition, topology), it) for it in placements)
        return Steps(steps, moment=keyed is not self.keyed)

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
    if node.with_clause.recursive:
        raise refuse("SP102", "WITH RECURSIVE")
    for cte in node.with_clause.ctes:
        copy = copied(cte)
        query = cte.common_table_expr.ctequery
        write = statement.lightened(query)
        if kind(query) in _CHANGES:
            parts.append(_part(write, replaced, topology))
            copy.common_table_expr.ctequery.CopyFrom(pb.Node(select_stmt=_returned_rows(query)))
        elif is_a(query, "insert_stmt") and query.insert_stmt.select_stmt.select_stmt.values_lists:
            rows += _inserted_values(write, topology)
            copy.common_table_expr.ctequery.CopyFrom(pb.Node(select_stmt=_rows_of_key(write, topology)))
        elif is_a(query, "insert_stmt"):
            parts.append(_selected(write, replaced, topology))
            copy.common_table_expr.ctequery.CopyFrom(pb.Node(select_stmt=_returned_copies(write, topology)))
        elif not is_a(query, "select_stmt"):
            raise refuse("SP102", "WITH has another write than INSERT, UPDATE or DELETE")
        replaced.ctes.append(copy)
    select = _main(statement, topology)
    select.with_clause.CopyFrom(replaced)
    main = compile_source(select, statement, topology)
    if is_a(statement.node, "insert_stmt"):
        _check_inserted(statement, main, topology)
    keyed = KeyedStatement(on_search_path(statement, topology), True, (), (), True)
    return WriteTogether(keyed, still_words(keyed, statement, topology), main, tuple(parts), tuple(rows))


def _part(part: Statement, before: Tree, topology: Topology) -> CompiledQuery:
    """What an UPDATE or DELETE reads, after *before* in WITH."""
    _check_key_stays(part, topology)
    _check_no_with(unwrap(part.node))
    return compile_source(_after(before, changed_rows(part.node)), part, topology)


def _check_no_with(node: Tree) -> None:
    if node.HasField("with_clause"):
        raise refuse("SP102", "WITH inside of WITH")


def _after(before: Tree, select: Tree) -> Tree:
    """*select* with those CTEs, if it reads any of them."""
    known = {cte.common_table_expr.ctename for cte in before.ctes}
    if any(isinstance(node, pb.RangeVar) and node.relname in known for node in walk(select)):
        select.with_clause.CopyFrom(before)
    return select


def _inserted_values(part: Statement, topology: Topology) -> list[WrittenKey]:
    """The keys of the rows of an INSERT of VALUES. Raise if it is more than these."""
    insert, table = part.node.insert_stmt, _sharded_target(part, topology)
    _check_no_with(insert)
    if any(isinstance(node, pb.RangeVar) and node != insert.relation for node in walk(insert)):
        raise refuse("SP102", f"the INSERT into {table.name} reads rows")
    if list(assigned_keys(insert.on_conflict_clause.target_list, table, part)):
        raise refuse("SP102", f"the partition key of {table.name} is assigned")
    return list(inserted_keys(insert, table, part, topology))


def _rows_of_key(part: Statement, topology: Topology) -> Tree:
    """``SELECT <RETURNING> FROM <target> WHERE <key> = <key of VALUES>``"""
    insert, table = part.node.insert_stmt, target_of(part, topology)
    columns = _columns(insert, table)
    values = insert.select_stmt.select_stmt.values_lists[0].list.items
    select = pb.SelectStmt(limit_option=pb.LIMIT_OPTION_DEFAULT, op=pb.SETOP_NONE)
    select.from_clause.append(pb.Node(range_var=copied(insert.relation)))
    select.target_list.extend(_returning(insert))
    conditions = pb.BoolExpr(boolop=pb.AND_EXPR)
    for name in table.key:
        equal = expression(f"{quote(_known_as(insert))}.{quote(name)} = 1")
        equal.a_expr.rexpr.CopyFrom(values[columns.index(name)])
        conditions.args.append(equal)
    select.where_clause.CopyFrom(conditions.args[0] if len(table.key) == 1 else pb.Node(bool_expr=conditions))
    return select


def _selected(part: Statement, before: Tree, topology: Topology) -> CompiledQuery:
    """What an INSERT .. SELECT reads, after *before* in WITH."""
    insert = part.node.insert_stmt
    _check_no_with(insert)
    if insert.HasField("on_conflict_clause") or not is_a(insert.select_stmt, "select_stmt"):
        raise refuse("SP102", "INSERT in WITH has ON CONFLICT, or no rows")
    select = copied(insert.select_stmt.select_stmt)
    _check_no_with(select)
    source = compile_source(_after(before, select), part, topology)
    _check_inserted(part, source, topology)
    return source


def _returned_copies(part: Statement, topology: Topology) -> Tree:
    """``SELECT <RETURNING> FROM (<SELECT>) AS <target> (<columns>)``"""
    insert, table = part.node.insert_stmt, target_of(part, topology)
    columns = _columns(insert, table)
    filled = {*columns, *("*" for _ in range(len(columns) == len(table.columns)))}
    for node in returned(insert):
        if column_fields(node.column_ref)[-1] not in filled:
            raise refuse("SP102", f"RETURNING of the INSERT into {table.name} has more than the columns it fills")
    names = ", ".join(map(quote, columns))
    select = expression(_DERIVED.format(name=quote(_known_as(insert)), columns=names)).sub_link.subselect.select_stmt
    select.from_clause[0].range_subselect.subquery.CopyFrom(insert.select_stmt)
    select.target_list.extend(_returning(insert))
    return copied(select)


def _columns(insert: Tree, table: Table) -> list[str]:
    return [node.res_target.name for node in insert.cols] or [column.name for column in table.columns]


def _known_as(write: Tree) -> str:
    return str(write.relation.alias.aliasname or write.relation.relname)


def _returning(write: Tree) -> list[Tree]:
    return list(write.returning_clause.exprs) if returned(write) else [target(expression("1"))]


def _check_key_stays(change: Statement, topology: Topology) -> None:
    table = _sharded_target(change, topology)
    changes = unwrap(change.node).target_list if is_a(change.node, "update_stmt") else ()
    if list(assigned_keys(changes, table, change)):
        raise refuse("SP102", f"the partition key of {table.name} is assigned")


def _sharded_target(write: Statement, topology: Topology) -> Table:
    table = target_of(write, topology)
    if not table.sharded:
        raise refuse("SP102", f"{table.name} is a reference table")
    return table


def _returned_rows(change: Tree) -> Tree:
    """``SELECT <RETURNING> FROM <target>, <FROM> WHERE ...``"""
    select = changed_rows(change)
    del select.target_list[:]
    select.target_list.extend(_returning(unwrap(change)))
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
    insert, table = statement.node.insert_stmt, _sharded_target(statement, topology)
    columns = _columns(insert, table)
    select = main.statement.node.select_stmt
    origins = main.analysis.scope_of(select).origins if select.op == pb.SETOP_NONE else ()
    if not set(table.key) <= set(columns[: len(origins)]):
        raise refuse("SP102", f"the partition key of the rows for {table.name} is not certain")
    if not are_key([origin_of(origins[columns.index(name)]) for name in table.key], table):
        raise refuse("SP102", f"the partition key of the rows for {table.name} is not theirs before")
    for node in returned(insert):
        if not is_a(node, "column_ref"):
            raise refuse("SP102", "RETURNING of INSERT has more than columns")
