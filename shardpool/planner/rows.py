"""Shapes of pushdown in which each partition gives result rows, or the rows that the merge query works on.

`whole_rows`: every partition runs the query itself; its rows are concatenated, or sorted and cut by the merge query,
each partition having sent its first LIMIT + OFFSET rows. `shipped_rows`: partitions filter, join and project; grouping,
windows and whatever else ranges over all rows is left to the merge query.
"""

from __future__ import annotations

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, is_a
from shardpool.planner.clauses import is_grouped
from shardpool.planner.rewrite import copied, expression, rewritten, target
from shardpool.planner.shape import Columns, Level, Refused, partial_of, place


def first_rows(select: Tree) -> Tree:
    """A copy in which every partition gives at most as many rows as the whole query could need of it."""
    for name in ("limit_count", "limit_offset"):
        if select.HasField(name) and getattr(select, name).WhichOneof("node") not in ("a_const", "param_ref"):
            raise Refused("LIMIT or OFFSET is an expression")
    copy = copied(select)
    if select.HasField("limit_offset"):
        copy.ClearField("limit_offset")
        if _limited(select):
            # Cast as LIMIT itself casts: rounded, and NULL for no limit.
            bound = expression("CAST(a AS bigint) + CAST(b AS bigint)")
            bound.a_expr.lexpr.type_cast.arg.CopyFrom(select.limit_count)
            bound.a_expr.rexpr.type_cast.arg.CopyFrom(select.limit_offset)
            if select.limit_option == pb.LIMIT_OPTION_WITH_TIES:
                raise Refused("WITH TIES and OFFSET")
            copy.limit_count.CopyFrom(bound)
    if not _limited(select):
        copy.ClearField("limit_count")
    copy.limit_option = select.limit_option if copy.HasField("limit_count") else pb.LIMIT_OPTION_DEFAULT
    return copy


def _limited(select: Tree) -> bool:
    """LIMIT ALL and LIMIT NULL are no limit; nor, for a partition, is a number that could overflow with OFFSET."""
    if not select.HasField("limit_count") or select.limit_count.a_const.isnull:
        return False
    constants = [getattr(select, name).a_const for name in ("limit_count", "limit_offset") if select.HasField(name)]
    return not any(len(constant.fval.fval) > 15 for constant in constants)


def whole_rows(level: Level) -> tuple[Tree, Tree]:
    """Return the partial and the merge query of one with ORDER BY or DISTINCT.

    DISTINCT ON takes the first row of each group in every partition, and the first of these.
    """
    select = level.select
    columns = Columns(level)
    found = level.outputs()
    merge = level.merge_skeleton()
    for value, name in found:
        merge.target_list.append(target(level.column(columns.add(value)), name))
    partial = first_rows(select)
    groups = [level.group_expression(node, found) for node in select.group_clause]
    for name in ("sort_clause", "group_clause", "distinct_clause"):
        del getattr(partial, name)[:]
    partial.group_clause.extend(groups)
    takes_first = any(node.WhichOneof("node") for node in select.distinct_clause)
    for node in select.distinct_clause:
        named = columns.add(level.sort_expression(node, found)) if takes_first else ""
        partial.distinct_clause.append(place(named) if named else node)
        merge.distinct_clause.append(level.column(named) if named else node)
    for node in select.sort_clause:
        column = columns.add(level.sort_expression(node.sort_by.node, found))
        for query, value in ((partial, place(column)), (merge, level.column(column))):
            sort = copied(node)
            sort.sort_by.node.CopyFrom(value)
            query.sort_clause.append(sort)
    if not partial.HasField("limit_count") and not takes_first:
        del partial.sort_clause[:]
    del partial.target_list[:]
    partial.target_list.extend(columns.targets)
    return partial, merge


def shipped_rows(level: Level) -> tuple[Tree, Tree]:
    """Return the partial and the merge query where the whole top level is left to the merge query."""
    return _Shipped(level).queries()


class _Shipped:
    def __init__(self, level: Level) -> None:
        self._level = level
        self._columns = Columns(level)
        self._grouped = is_grouped(level.select)

    def queries(self) -> tuple[Tree, Tree]:
        level, select = self._level, self._level.select
        found = level.outputs()
        merge = level.merge_skeleton()
        for value, name in found:
            merge.target_list.append(target(self._merged(value), name))
        for node in select.group_clause:
            meant = node if is_a(node, "grouping_set") else level.group_expression(node, found)
            merge.group_clause.append(self._merged(meant))
        merge.group_distinct = select.group_distinct
        if select.HasField("having_clause"):
            merge.having_clause.CopyFrom(self._merged(select.having_clause))
        merge.window_clause.extend(self._merged(node) for node in select.window_clause)
        names = {name for _, name in found}
        merge.distinct_clause.extend(self._ordered(node, names) for node in select.distinct_clause)
        for node in select.sort_clause:
            sort = copied(node)
            sort.sort_by.node.CopyFrom(self._ordered(node.sort_by.node, names))
            merge.sort_clause.append(sort)
        return partial_of(select, self._columns), merge

    def _ordered(self, node: Tree, names: set[str]) -> Tree:
        """Output columns by name or place stay as they are."""
        is_name = is_a(node, "column_ref") and len(node.column_ref.fields) == 1
        if is_name and column_fields(node.column_ref)[0] in names:
            return copied(node)
        return copied(node) if is_a(node, "a_const") or not node.WhichOneof("node") else self._merged(node)

    def _merged(self, node: Tree) -> Tree:
        """The merge query's form of an expression: columns are partial columns."""

        def replace(inner: Tree) -> Tree | None:
            if is_a(inner, "column_ref"):
                member = self._level.scope.resolve(inner.column_ref)
                if member is None or member[0].scope is not self._level.scope:
                    raise Refused(f"{'.'.join(column_fields(inner.column_ref))} is not certain to be a column")
                return self._level.column(self._columns.add(inner))
            if is_a(inner, "sub_link"):
                return self._subquery(inner)
            return None

        return rewritten(node, replace)

    def _subquery(self, link: Tree) -> Tree | None:
        """A subquery over sharded tables is a partial column; others are evaluated by the merge query."""
        level = self._level
        if level.proof.reads_sharded(link.sub_link.subselect):
            if self._grouped:
                raise Refused("a subquery stands beside groups")
            return level.column(self._columns.add(link))
        if level.analysis.reads_outer_cte(link):
            raise Refused("a subquery of the merge query reads a CTE")
        own = level.own(link)

        def replace(inner: Tree) -> Tree | None:
            if is_a(inner, "column_ref") and any(inner.column_ref is reference for reference in own):
                return level.column(self._columns.add(inner))
            return None

        return rewritten(link, replace)
