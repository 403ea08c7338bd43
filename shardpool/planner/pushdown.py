"""The rung *pushdown*: a partial query per partition, and a merge query.

Rows: each partition filters, joins and projects; the rows are concatenated, or sorted and cut by the merge query, each
partition having sent its first LIMIT + OFFSET rows. Groups: each partition groups and aggregates its rows; the merge
query groups the partial groups again and combines the aggregates. It is sound because the rows of FROM are the union of
each partition's (`colocation`), and because everything evaluated per partition is repeatable (`safety`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from postgast import pg_query_pb2 as pb

from shardpool.planner.aggregates import NotPartial, merged_aggregate
from shardpool.planner.ast import Tree, UnfaithfulText, column_fields, is_a, names, to_sql, walk
from shardpool.planner.colocation import NotColocated, carrier_of
from shardpool.planner.functions import is_aggregate
from shardpool.planner.output import output_name
from shardpool.planner.plan import PARTIAL_TABLE, SCHEMA_MARKER, Concatenation, MergeQuery
from shardpool.planner.rewrite import canonical, copied, expression, partial_column, per_partition, replaced, target
from shardpool.planner.safety import not_repeatable
from shardpool.planner.scopes import Analysis, Item, Scope, expand_star
from shardpool.planner.statement import Statement, to_pyformat
from shardpool.topology.shard_map import Topology


@dataclass(frozen=True)
class Pushdown:
    """The part of a plan that does not depend on parameters and placements. Partitions are chosen by `carrier`."""

    partial: str
    merge: Concatenation | MergeQuery
    carrier: Item
    #: Names of the parameters in LIMIT and OFFSET.
    limits: tuple[str, ...] = ()


class _Refused(Exception):
    pass


def plan_pushdown(analysis: Analysis, statement: Statement, topology: Topology) -> Pushdown | str:
    """Return the partial and the merge query, or the reason why there is no such plan."""
    select = statement.node.select_stmt
    try:
        _check_shape(select, analysis, topology)
        scope = analysis.scopes[0]
        carrier = carrier_of(scope, statement)
        if _grouped(select):
            partial, merge = _Groups(select, scope).queries()
        elif select.sort_clause:
            partial, merge = _Sorted(select, scope).queries()
        else:
            partial, merge = _first_rows(select), None
        _check_columns(partial, scope)
        text = to_sql(per_partition(partial, scope.items, topology.keyspace))
        sharded = sum(1 for item in scope.items if item.table is not None and item.table.sharded)
        if text.count(SCHEMA_MARKER) != sharded:
            raise UnfaithfulText(text)
        combined = _concatenation(select, statement) if merge is None else MergeQuery(_merge_text(merge, statement))
        return Pushdown(to_pyformat(text, statement), combined, carrier, tuple(_limit_parameters(select, statement)))
    except (_Refused, NotColocated, NotPartial) as reason:
        return str(reason)
    except UnfaithfulText:
        return "the generated text could not be proven faithful"


def _check_columns(partial: Tree, scope: Scope) -> None:
    """Every reference must be a column: whole rows have another type in every partition."""
    for node in walk(partial):
        if isinstance(node, pb.ColumnRef) and column_fields(node)[-1] != "*" and scope.resolve(node) is None:
            raise _Refused(f"{'.'.join(column_fields(node))} is not certain to be a column")


def _limit_parameters(select: Tree, statement: Statement) -> Iterator[str]:
    for name in ("limit_count", "limit_offset"):
        if select.HasField(name) and is_a(getattr(select, name), "param_ref"):
            yield statement.names[getattr(select, name).param_ref.number - 1]


def _merge_text(merge: Tree, statement: Statement) -> str:
    return to_pyformat(to_sql(merge), statement)


def _check_shape(select: Tree, analysis: Analysis, topology: Topology) -> None:
    """Only one level of SELECT over tables, and only what can be evaluated per partition."""
    if len(analysis.scopes) != 1 or analysis.composed or select.op != pb.SETOP_NONE or select.values_lists:
        raise _Refused("the statement has subqueries, CTEs, set operations or functions in FROM")
    if any(item.sampled for item in analysis.occurrences):
        raise _Refused("TABLESAMPLE draws from the whole table")
    if select.distinct_clause or select.window_clause or select.group_distinct:
        raise _Refused("DISTINCT and windows range over all partitions")
    if select.limit_option == pb.LIMIT_OPTION_WITH_TIES:
        raise _Refused("WITH TIES needs all rows of the last rank")
    for limit in ("limit_count", "limit_offset"):
        if select.HasField(limit) and getattr(select, limit).WhichOneof("node") not in ("a_const", "param_ref"):
            raise _Refused("LIMIT or OFFSET is an expression")
    if any(is_a(node, "grouping_set") for node in select.group_clause):
        raise _Refused("GROUPING SETS range over all partitions")
    # A FROM item itself is no expression; conditions inside of it are.
    parts = [*select.target_list, *select.group_clause, *select.sort_clause]
    parts += [getattr(select, name) for name in ("where_clause", "having_clause") if select.HasField(name)]
    for node in walk(select):
        if isinstance(node, pb.JoinExpr) and node.HasField("quals"):
            parts.append(node.quals)
    for part in parts:
        inner = part.res_target.val if is_a(part, "res_target") else part
        reason = None if is_a(inner, "column_ref") else not_repeatable(inner, topology, aggregates=True)
        if reason is not None:
            raise _Refused(reason)


def _grouped(select: Tree) -> bool:
    if select.group_clause or select.HasField("having_clause"):
        return True
    parts = [*select.target_list, *select.sort_clause]
    return any(isinstance(node, pb.FuncCall) and _is_aggregate_call(node) for part in parts for node in walk(part))


def _is_aggregate_call(call: Tree) -> bool:
    return is_aggregate(names(call.funcname)[-1])


# -- rows -----------------------------------------------------------------------------------------------------------


def _first_rows(select: Tree) -> Tree:
    """A copy in which every partition gives at most as many rows as the whole query could need of it."""
    copy = copied(select)
    if select.HasField("limit_offset"):
        copy.ClearField("limit_offset")
        if _limited(select):
            # Cast as LIMIT itself casts: rounded, and NULL for no limit.
            bound = expression("CAST(a AS bigint) + CAST(b AS bigint)")
            bound.a_expr.lexpr.type_cast.arg.CopyFrom(select.limit_count)
            bound.a_expr.rexpr.type_cast.arg.CopyFrom(select.limit_offset)
            copy.limit_count.CopyFrom(bound)
    if not _limited(select):
        copy.ClearField("limit_count")
    copy.limit_option = pb.LIMIT_OPTION_COUNT if copy.HasField("limit_count") else pb.LIMIT_OPTION_DEFAULT
    return copy


def _limited(select: Tree) -> bool:
    """LIMIT ALL and LIMIT NULL are no limit; nor, for a partition, is a number that could overflow with OFFSET."""
    if not select.HasField("limit_count") or select.limit_count.a_const.isnull:
        return False
    constants = [getattr(select, name).a_const for name in ("limit_count", "limit_offset") if select.HasField(name)]
    return not any(len(constant.fval.fval) > 15 for constant in constants)


def _concatenation(select: Tree, statement: Statement) -> Concatenation:
    def count(name: str) -> int | str | None:
        if not select.HasField(name):
            return None
        node = getattr(select, name)
        if is_a(node, "param_ref"):
            return str(statement.names[node.param_ref.number - 1])
        if node.a_const.isnull:
            return None
        if node.a_const.WhichOneof("val") != "ival" or node.a_const.ival.ival < 0:
            raise _Refused("LIMIT or OFFSET is not a plain number")
        return int(node.a_const.ival.ival)

    return Concatenation(count("limit_count"), count("limit_offset"))


def _merge_skeleton(select: Tree) -> Tree:
    """``SELECT FROM shardpool_partial`` with the user's LIMIT and OFFSET."""
    merge = pb.SelectStmt(limit_option=select.limit_option, op=pb.SETOP_NONE)
    merge.from_clause.append(pb.Node(range_var=pb.RangeVar(relname=PARTIAL_TABLE, inh=True, relpersistence="p")))
    for name in ("limit_count", "limit_offset"):
        if select.HasField(name):
            getattr(merge, name).CopyFrom(getattr(select, name))
    return merge


def _outputs(select: Tree, scope: Scope) -> list[tuple[Tree, str]]:
    """The output columns as (expression, name), stars expanded."""
    found: list[tuple[Tree, str]] = []
    for node in select.target_list:
        value = node.res_target.val
        if is_a(value, "column_ref") and column_fields(value.column_ref)[-1] == "*":
            expanded = expand_star(value.column_ref, scope)
            if expanded is None:
                raise _Refused("a star whose columns are not certain")
            for item, name in expanded:
                fields = [pb.Node(string=pb.String(sval=part)) for part in (item.alias, name)]
                found.append((pb.Node(column_ref=pb.ColumnRef(fields=fields)), name))
            continue
        name_of = output_name(node.res_target)
        if name_of is None:
            raise _Refused("the name of an output column is not certain")
        found.append((value, name_of))
    return found


def _sort_expression(sort: Tree, outputs: list[tuple[Tree, str]]) -> Tree:
    """What a SortBy node sorts by: an output column by name or place, else the expression itself."""
    node = sort.node
    if is_a(node, "param_ref"):
        raise _Refused("ORDER BY a parameter")
    if is_a(node, "column_ref") and len(node.column_ref.fields) == 1:
        name = column_fields(node.column_ref)[0]
        matches = [value for value, output in outputs if output == name]
        if len(matches) > 1:
            raise _Refused(f"ORDER BY {name} could mean several output columns")
        return matches[0] if matches else node
    return _by_place(node, outputs)


def _by_place(node: Tree, outputs: list[tuple[Tree, str]]) -> Tree:
    if is_a(node, "a_const"):
        place = node.a_const.ival.ival
        if node.a_const.WhichOneof("val") != "ival" or not 1 <= place <= len(outputs):
            raise _Refused("a constant in ORDER BY or GROUP BY is no output column")
        return outputs[place - 1][0]
    return node


def _place(name: str) -> Tree:
    """The place of a partial column, to sort and group by: a name could mean one of the user's columns."""
    return expression(name.removeprefix("c"))


class _Columns:
    """The columns of the partial query: one per different expression, named c1, c2, ..."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._names: dict[bytes, str] = {}
        self.targets: list[Tree] = []

    def add(self, node: Tree) -> str:
        key = canonical(node, self._scope)
        if key not in self._names:
            self._names[key] = f"c{len(self._names) + 1}"
            self.targets.append(target(node, self._names[key]))
        return self._names[key]

    def find(self, node: Tree) -> str | None:
        return self._names.get(canonical(node, self._scope))


class _Sorted:
    """ORDER BY without grouping."""

    def __init__(self, select: Tree, scope: Scope) -> None:
        self._select, self._scope = select, scope

    def queries(self) -> tuple[Tree, Tree]:
        columns = _Columns(self._scope)
        outputs = _outputs(self._select, self._scope)
        merge = _merge_skeleton(self._select)
        for value, name in outputs:
            merge.target_list.append(target(partial_column(columns.add(value)), name))
        partial = _first_rows(self._select)
        del partial.sort_clause[:]
        for node in self._select.sort_clause:
            name = columns.add(_sort_expression(node.sort_by, outputs))
            for query, value in ((partial, _place(name)), (merge, partial_column(name))):
                sort = copied(node)
                sort.sort_by.node.CopyFrom(value)
                query.sort_clause.append(sort)
        if not partial.HasField("limit_count"):
            del partial.sort_clause[:]
        del partial.target_list[:]
        partial.target_list.extend(columns.targets)
        return partial, merge


# -- groups ---------------------------------------------------------------------------------------------------------


class _Groups:
    """GROUP BY, aggregates and HAVING."""

    def __init__(self, select: Tree, scope: Scope) -> None:
        self._select, self._scope = select, scope
        self._columns = _Columns(scope)

    def queries(self) -> tuple[Tree, Tree]:
        select = self._select
        outputs = _outputs(select, self._scope)
        merge = _merge_skeleton(select)
        groups = [self._columns.add(self._group_expression(node, outputs)) for node in select.group_clause]
        merge.group_clause.extend(partial_column(name) for name in groups)
        for value, name in outputs:
            merge.target_list.append(target(self._merged(value), name))
        if select.HasField("having_clause"):
            merge.having_clause.CopyFrom(self._merged(select.having_clause))
        for node in select.sort_clause:
            sort = copied(node)
            sort.sort_by.node.CopyFrom(self._merged(_sort_expression(node.sort_by, outputs)))
            if is_a(sort.sort_by.node, "a_const"):
                raise _Refused("ORDER BY a constant")
            merge.sort_clause.append(sort)
        return self._partial(groups), merge

    def _partial(self, groups: list[str]) -> Tree:
        partial = copied(self._select)
        for name in ("target_list", "sort_clause", "group_clause"):
            del getattr(partial, name)[:]
        for name in ("having_clause", "limit_count", "limit_offset"):
            partial.ClearField(name)
        partial.limit_option = pb.LIMIT_OPTION_DEFAULT
        partial.target_list.extend(self._columns.targets)
        partial.group_clause.extend(_place(name) for name in groups)
        if not self._columns.targets:
            partial.target_list.append(target(expression("1"), "c1"))
        return partial

    def _group_expression(self, node: Tree, outputs: list[tuple[Tree, str]]) -> Tree:
        """A bare name means an input column first, then an output column."""
        if is_a(node, "param_ref"):
            raise _Refused("GROUP BY a parameter")
        if is_a(node, "column_ref") and self._scope.resolve(node.column_ref) is None:
            name = column_fields(node.column_ref)[-1]
            if self._scope.opaque or any(item.columns is None or name in item.columns for item in self._scope.items):
                raise _Refused(f"GROUP BY {name} is not certain")
            matches = [value for value, output in outputs if output == name]
            if len(node.column_ref.fields) != 1 or len(matches) != 1:
                raise _Refused(f"GROUP BY {name} is not certain")
            node = matches[0]
        found = _by_place(node, outputs)
        if any(isinstance(inner, pb.FuncCall) and _is_aggregate_call(inner) for inner in walk(found)):
            raise _Refused("GROUP BY an aggregate")
        return found

    def _merged(self, node: Tree) -> Tree:
        """The merge query's form of an expression over groups and aggregates."""

        def replace(inner: Tree) -> Tree | None:
            group = self._columns.find(inner) if inner.WhichOneof("node") != "func_call" else self._group_call(inner)
            if group is not None:
                return partial_column(group)
            if is_a(inner, "func_call") and _is_aggregate_call(inner.func_call):
                return merged_aggregate(inner, self._scope, self._columns.add)
            if is_a(inner, "column_ref"):
                raise _Refused(f"column {'.'.join(column_fields(inner.column_ref))} is neither grouped nor aggregated")
            return None

        return replaced(node, replace)

    def _group_call(self, node: Tree) -> str | None:
        """A function call may be a grouping expression; an aggregate call never is, though it may be a column."""
        return None if _is_aggregate_call(node.func_call) else self._columns.find(node)
