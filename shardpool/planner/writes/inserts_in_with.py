"""INSERT in WITH: what it reads, and what stands for the rows that it returns."""

from __future__ import annotations

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, is_a, walk
from shardpool.planner.keyed import WrittenKey, assigned_keys, inserted_columns, inserted_keys
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.refusals import refuse
from shardpool.planner.rewrite import copied, expression, target
from shardpool.planner.statement import Statement
from shardpool.planner.writes.own_keys import are_key, origin_of
from shardpool.planner.writes.staged import compile_source
from shardpool.planner.writes.steps import alias_of, returned, target_of
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

#: A SELECT from another one, to be filled.
_DERIVED = "(SELECT FROM (SELECT 1) AS {name} ({columns}))"


def inserted_values(part: Statement, topology: Topology) -> list[WrittenKey]:
    """The keys of the rows of an INSERT of VALUES. Raise if it is more than these."""
    insert, table = part.node.insert_stmt, sharded_target(part, topology)
    check_no_with(insert)
    if any(isinstance(node, pb.RangeVar) and node != insert.relation for node in walk(insert)):
        raise refuse("SP102", f"the INSERT into {table.name} reads rows")
    if list(assigned_keys(insert.on_conflict_clause.target_list, table, part)):
        raise refuse("SP102", f"the partition key of {table.name} is assigned")
    return list(inserted_keys(insert, table, part, topology))


def selected(part: Statement, before: Tree, topology: Topology) -> CompiledQuery:
    """What an INSERT .. SELECT reads, after *before* in WITH."""
    insert = part.node.insert_stmt
    check_no_with(insert)
    if insert.HasField("on_conflict_clause") or not is_a(insert.select_stmt, "select_stmt"):
        raise refuse("SP102", "INSERT in WITH has ON CONFLICT, or no rows")
    select = copied(insert.select_stmt.select_stmt)
    check_no_with(select)
    source = compile_source(after(before, select), part, topology)
    check_inserted(part, source, topology)
    return source


def check_inserted(statement: Statement, main: CompiledQuery, topology: Topology) -> None:
    """The rows of INSERT must stay where those are that they come from."""
    insert, table = statement.node.insert_stmt, sharded_target(statement, topology)
    columns = inserted_columns(insert, table)
    select = main.statement.node.select_stmt
    origins = main.analysis.scope_of(select).origins if select.op == pb.SETOP_NONE else ()
    if not set(table.key) <= set(columns[: len(origins)]):
        raise refuse("SP102", f"the partition key of the rows for {table.name} is not certain")
    if not are_key([origin_of(origins[columns.index(name)]) for name in table.key], table):
        raise refuse("SP102", f"the partition key of the rows for {table.name} is not theirs before")
    for node in returned(insert):
        if not is_a(node, "column_ref"):
            raise refuse("SP102", "RETURNING of INSERT has more than columns")


def rows_of_key(part: Statement, topology: Topology) -> Tree:
    """``SELECT <RETURNING> FROM <target> WHERE <key> = <key of VALUES>``"""
    insert, table = part.node.insert_stmt, target_of(part, topology)
    columns = inserted_columns(insert, table)
    values = insert.select_stmt.select_stmt.values_lists[0].list.items
    select = pb.SelectStmt(limit_option=pb.LIMIT_OPTION_DEFAULT, op=pb.SETOP_NONE)
    select.from_clause.append(pb.Node(range_var=copied(insert.relation)))
    select.target_list.extend(returning(insert))
    conditions = pb.BoolExpr(boolop=pb.AND_EXPR)
    for name in table.key:
        equal = expression(f"{quote(alias_of(insert))}.{quote(name)} = 1")
        equal.a_expr.rexpr.CopyFrom(values[columns.index(name)])
        conditions.args.append(equal)
    select.where_clause.CopyFrom(conditions.args[0] if len(table.key) == 1 else pb.Node(bool_expr=conditions))
    return select


def returned_copies(part: Statement, topology: Topology) -> Tree:
    """``SELECT <RETURNING> FROM (<SELECT>) AS <target> (<columns>)``"""
    insert, table = part.node.insert_stmt, target_of(part, topology)
    columns = inserted_columns(insert, table)
    filled = {*columns, *("*" for _ in range(len(columns) == len(table.columns)))}
    for node in returned(insert):
        if column_fields(node.column_ref)[-1] not in filled:
            raise refuse("SP102", f"RETURNING of the INSERT into {table.name} has more than the columns it fills")
    names = ", ".join(map(quote, columns))
    select = expression(_DERIVED.format(name=quote(alias_of(insert)), columns=names)).sub_link.subselect.select_stmt
    select.from_clause[0].range_subselect.subquery.CopyFrom(insert.select_stmt)
    select.target_list.extend(returning(insert))
    return copied(select)


def returning(write: Tree) -> list[Tree]:
    return list(write.returning_clause.exprs) if returned(write) else [target(expression("1"))]


def sharded_target(write: Statement, topology: Topology) -> Table:
    table = target_of(write, topology)
    if not table.sharded:
        raise refuse("SP102", f"{table.name} is a reference table")
    return table


def check_no_with(node: Tree) -> None:
    if node.HasField("with_clause"):
        raise refuse("SP102", "WITH inside of WITH")


def after(before: Tree, select: Tree) -> Tree:
    """*select* with those CTEs, if it reads any of them."""
    known = {cte.common_table_expr.ctename for cte in before.ctes}
    if any(isinstance(node, pb.RangeVar) and node.relname in known for node in walk(select)):
        select.with_clause.CopyFrom(before)
    return select
