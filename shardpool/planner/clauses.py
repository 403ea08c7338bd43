"""The parts of a SELECT: conditions, outputs, groups and windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, is_a, names, walk, walk_flat
from shardpool.planner.functions import is_aggregate, is_of_groups
from shardpool.planner.scopes import Analysis, references


def conditions(select: Tree) -> list[Tree]:
    """WHERE, and the ON of all joins."""
    found = [select.where_clause] if select.HasField("where_clause") else []
    return found + [
        join.quals
        for node in select.from_clause
        for join in walk_flat(node)
        if isinstance(join, pb.JoinExpr) and join.HasField("quals")
    ]


def outputs(select: Tree) -> list[Tree]:
    """All that is evaluated over the rows of FROM and WHERE."""
    found = [node.res_target.val for node in select.target_list]
    found += [*select.group_clause, *select.sort_clause, *select.window_clause]
    found += [node for node in select.distinct_clause if node.WhichOneof("node")]
    found += [values.list for values in select.values_lists]
    return found + ([select.having_clause] if select.HasField("having_clause") else [])


def is_grouped(select: Tree) -> bool:
    """Whether the query itself has GROUP BY, HAVING or aggregate calls (other than as window functions)."""
    if select.group_clause or select.HasField("having_clause"):
        return True
    parts = [*select.target_list, *select.sort_clause, *select.window_clause, *select.distinct_clause]
    return any(is_aggregate_call(node) for part in parts for node in walk_flat(part))


def needs_rows(select: Tree) -> bool:
    """Whether a query has no rows if its FROM and WHERE give none."""
    if select.op != pb.SETOP_NONE or select.values_lists or not select.from_clause:
        return False
    if not is_grouped(select):
        return True
    return bool(select.group_clause) and not any(is_a(node, "grouping_set") for node in select.group_clause)


def is_aggregate_call(node: Tree) -> bool:
    return isinstance(node, pb.FuncCall) and is_aggregate(names(node.funcname)[-1]) and not node.HasField("over")


def has_full_join(analysis: Analysis) -> bool:
    joins = (node for scope in analysis.scopes for part in scope.select.from_clause for node in walk_flat(part))
    return any(isinstance(node, pb.JoinExpr) and node.jointype == pb.JOIN_FULL for node in joins)


def aggregates_of_outer_queries(analysis: Analysis) -> bool:
    """Whether an aggregate call in a subquery belongs to a query around it, which it makes a grouped one.

    It belongs to the innermost query of which it has a column (SQL:2016 part 2, 10.9, syntax rule 7); columns of
    queries in its own arguments do not count.
    """
    for scope in analysis.scopes:
        calls = [
            node for node in walk_flat(scope.select) if isinstance(node, pb.GroupingFunc) or is_aggregate_call(node)
        ]
        if not calls or scope.parent is None:
            continue
        inside = analysis.scopes_in(scope.select)
        for call in calls:
            members = [where.resolve(node) if where else None for node, where in references(call, scope, analysis)]
            found = [None if member is None else member[0].scope for member in members]
            if any(it not in inside for it in found) and scope not in found:
                return True
    return False


def windows(select: Tree) -> Iterable[list[Tree]]:
    """Yield the PARTITION BY of each window function's window."""
    named = {node.window_def.name: node.window_def for node in select.window_clause}
    for part in [*select.target_list, *select.sort_clause]:
        for node in walk_flat(part):
            if isinstance(node, pb.FuncCall) and node.HasField("over"):
                yield _partition_by(node.over, named.get)


def _partition_by(window: Tree, named: Callable[[str], Tree | None]) -> list[Tree]:
    base = named(window.refname or window.name)
    if base is not None and base is not window:
        return _partition_by(base, named) if not base.partition_clause else list(base.partition_clause)
    return list(window.partition_clause)


def only_rows(select: Tree) -> bool:
    """Whether a query only filters, joins and projects."""
    if select.op != pb.SETOP_NONE or select.HasField("limit_count") or select.HasField("limit_offset"):
        return False
    if select.group_clause or select.distinct_clause or select.sort_clause or select.HasField("having_clause"):
        return False
    if select.values_lists or not select.from_clause:
        return False
    return not any(isinstance(node, pb.FuncCall) and _ranges(node) for node in walk(select))


def _ranges(call: Tree) -> bool:
    return call.HasField("over") or is_of_groups(names(call.funcname)[-1])
