"""The shape of pushdown for groups that range over partitions: each partition groups and aggregates its rows, the merge
query groups the partial groups again and combines the aggregates.

Where all aggregates are blind to duplicates (``count(DISTINCT x)``, ``max(x)``), the partial groups are the distinct
rows of grouping expressions and arguments, and the merge query aggregates those.
"""

from __future__ import annotations

from collections.abc import Iterable

from postgast import pg_query_pb2 as pb

from shardpool.planner.aggregates import NotPartial, is_blind_to_duplicates, merged_aggregate
from shardpool.planner.ast import Tree, column_fields, has_subquery, is_a, names, walk_flat
from shardpool.planner.clauses import is_aggregate_call, outputs
from shardpool.planner.rewrite import canonical, copied, rewritten, target
from shardpool.planner.shape import Columns, Level, Refused, partial_of, place


def partial_groups(level: Level) -> tuple[Tree, Tree]:
    """Return the partial and the merge query. Raise `Refused`, or `NotPartial` for an aggregate."""
    return _Groups(level).queries()


class _Groups:
    def __init__(self, level: Level) -> None:
        self._level = level
        self._columns = Columns(level)
        calls = [inner for node in outputs(level.select) for inner in walk_flat(node) if is_aggregate_call(inner)]
        self._distinct = any(call.agg_distinct for call in calls)
        if self._distinct and not all(is_blind_to_duplicates(call) for call in calls):
            raise NotPartial("DISTINCT aggregates beside others")

    def queries(self) -> tuple[Tree, Tree]:
        level, select = self._level, self._level.select
        found = level.outputs()
        merge = level.merge_skeleton()
        groups: dict[str, Tree] = {}
        for node in select.group_clause:
            merge.group_clause.append(self._group(node, found, groups))
        if any(is_a(node, "grouping_set") for node in select.group_clause):
            self._check_different(groups.values())
        merge.group_distinct = select.group_distinct
        for value, name in found:
            merge.target_list.append(target(self._merged(value), name))
        if select.HasField("having_clause"):
            merge.having_clause.CopyFrom(self._merged(select.having_clause))
        merge.window_clause.extend(self._merged(node) for node in select.window_clause)
        if any(node.WhichOneof("node") for node in select.distinct_clause):
            raise Refused("DISTINCT ON over groups")
        merge.distinct_clause.extend(select.distinct_clause)
        for node in select.sort_clause:
            sort = copied(node)
            sort.sort_by.node.CopyFrom(self._merged(level.sort_expression(node.sort_by.node, found)))
            if is_a(sort.sort_by.node, "a_const"):
                raise Refused("ORDER BY a constant")
            merge.sort_clause.append(sort)
        partial = partial_of(select, self._columns)
        if self._distinct:
            partial.distinct_clause.append(pb.Node())
        else:
            partial.group_clause.extend(place(name) for name in groups)
        return partial, merge

    def _check_different(self, groups: Iterable[Tree]) -> None:
        """PostgreSQL drops a cast to the type that a value has, and takes ``n::int`` for the ``n`` of another set."""
        scope = self._level.scope
        bare = [canonical(rewritten(node, _uncast), scope) for node in groups]
        if len(set(bare)) < len(bare):
            raise Refused("GROUPING SETS of expressions that differ in a cast only")

    def _group(self, node: Tree, found: list[tuple[Tree, str]], groups: dict[str, Tree]) -> Tree:
        """The merge query's form of a grouping expression or set; adds its partial columns to *groups*."""
        if is_a(node, "grouping_set"):
            copy = copied(node)
            del copy.grouping_set.content[:]
            copy.grouping_set.content.extend(self._group(inner, found, groups) for inner in node.grouping_set.content)
            return copy
        if is_a(node, "row_expr"):
            copy = copied(node)
            del copy.row_expr.args[:]
            copy.row_expr.args.extend(self._group(inner, found, groups) for inner in node.row_expr.args)
            return copy
        meant = self._level.group_expression(node, found)
        if any(is_aggregate_call(inner) for inner in walk_flat(meant)):
            raise Refused("GROUP BY an aggregate")
        if has_subquery(meant):
            raise Refused("GROUP BY a subquery")
        name = self._columns.add(meant)
        groups[name] = meant
        return self._level.column(name)

    def _merged(self, node: Tree) -> Tree:
        """The merge query's form of an expression over groups and aggregates."""

        def replace(inner: Tree) -> Tree | None:
            is_call = is_a(inner, "func_call")
            if is_call and is_aggregate_call(inner.func_call):
                return self._aggregate(inner)
            group = None if is_call and inner.func_call.HasField("over") else self._columns.find(inner)
            if group is not None:
                return self._level.column(group)
            if is_a(inner, "column_ref"):
                raise Refused(f"column {'.'.join(column_fields(inner.column_ref))} is neither grouped nor aggregated")
            if is_a(inner, "sub_link"):
                level = self._level
                if (
                    level.proof.reads_sharded(inner.sub_link.subselect)
                    or level.own(inner)
                    or level.analysis.reads_outer_cte(inner)
                ):
                    raise Refused("a subquery stands beside groups")
                return copied(inner)
            return None

        return rewritten(node, replace)

    def _aggregate(self, node: Tree) -> Tree:
        if has_subquery(node):
            raise Refused(f"a subquery in {names(node.func_call.funcname)[-1]}()")
        add = self._columns.add
        if not self._distinct:
            return merged_aggregate(node, self._level, add)
        copy = copied(node)
        for arguments in (copy.func_call.args, copy.func_call.agg_order):
            for argument in arguments:
                inner = argument.sort_by.node if is_a(argument, "sort_by") else argument
                if not is_a(inner, "a_const"):
                    inner.CopyFrom(self._level.column(add(inner)))
        return copy


def _uncast(node: Tree) -> Tree | None:
    return rewritten(node.type_cast.arg, _uncast) if is_a(node, "type_cast") else None
