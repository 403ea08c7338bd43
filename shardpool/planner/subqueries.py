"""Subqueries that can be run first: which there are in a query, and the query with their results in their place.

A subquery that looks at nothing outside of itself has one result. It is run as a query of its own, its rows become a
temporary table, and the query around it reads that. Which of them: those that read sharded tables and could not be
evaluated partition by partition where they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, is_a, kind, parts, unwrap, walk
from shardpool.planner.carriers import Carrier, NotPartitionWise
from shardpool.planner.clauses import only_rows
from shardpool.planner.output import output_name
from shardpool.planner.partitionwise import PartitionWise
from shardpool.planner.rewrite import Changes, changed, changes, copied, rewritten, target, with_part
from shardpool.planner.scopes import STAGE_SCHEMA, Analysis, Columns, Scope

#: Runs a subquery as a stage; returns the name of its table, None if that has no plan.
RunFirst = Callable[[Tree], str | None]


class Subqueries:
    """The subqueries of one query."""

    def __init__(
        self,
        select: Tree,
        analysis: Analysis,
        proof: PartitionWise,
        analysed: Callable[[Tree], Analysis],
        run_first: RunFirst,
    ) -> None:
        self._select = select
        self._analysis = analysis
        self._proof = proof
        self._analysed = analysed
        self._run_first = run_first
        self._replaced = False
        #: What was put in the place of nodes last, and the query with that: asked for again, it is the same one.
        self._staged: tuple[Changes, Tree] = [], select
        #: Nodes with the rows of a stage in place of their query, by the node's id (it is kept alive) and the table.
        self._holders: dict[tuple[int, str], tuple[Tree, Tree]] = {}
        #: Run first, they would send what the query around them groups or filters.
        self._alone = [scope.select.from_clause[0] for scope in analysis.scopes if len(scope.select.from_clause) == 1]

    def staged(self, *, everything: bool) -> Tree:
        """Return the query with subqueries replaced by their results; with *everything* all that can be.

        It is the query itself if there are none.
        """
        self._everything, self._replaced = everything, False
        if self._select.op != pb.SETOP_NONE:
            if not everything and self._lies_together():
                return self._select
            staged = self._set_operation(self._select)
        else:
            found = changes(self._select, self._replace) if self._analysis.has_subqueries else []
            if found != self._staged[0]:
                self._staged = found, changed(self._select, found)
            return self._staged[1]
        return staged if self._replaced else self._select

    def _replace(self, node: Tree) -> Tree | None:
        """Only nodes that hold a subquery are answered for: whether it may go first depends on where it stands."""
        if is_a(node, "sub_link"):
            return self._sub_link(node)
        if is_a(node, "range_subselect"):
            inner = node.range_subselect
            return None if inner.lateral else self._with_query(node, inner.subquery)
        if is_a(node, "common_table_expr"):
            return self._with_query(node, node.common_table_expr.ctequery)
        return None

    def _sub_link(self, node: Tree) -> Tree | None:
        link = node.sub_link
        if not self._goes_first(link.subselect, lambda: self._is_tied(link)):
            return None
        select = link.subselect.select_stmt
        if link.sub_link_type == pb.EXISTS_SUBLINK and select.op == pb.SETOP_NONE and not _has_limit(select):
            select = copied(select)
            select.limit_count.CopyFrom(pb.Node(a_const=pb.A_Const(ival=pb.Integer(ival=1))))
            select.limit_option = pb.LIMIT_OPTION_COUNT
        return self._put(node, link.subselect, select)

    def _with_query(self, node: Tree, query: Tree) -> Tree | None:
        if not is_a(query, "select_stmt"):
            return None
        alone = any(node is only for only in self._alone)
        if not self._goes_first(query, lambda: self._is_rows(query.select_stmt), everything=not alone):
            return None
        return self._put(node, query, query.select_stmt)

    def _goes_first(self, query: Tree, is_fine: Callable[[], bool], *, everything: bool = True) -> bool:
        select = query.select_stmt
        if not self._proof.reads_sharded(select) or (not (everything and self._everything) and is_fine()):
            return False
        return self._analysis.stands_alone(select)

    def _put(self, node: Tree, query: Tree, select: Tree) -> Tree | None:
        """Return *node* with the result of *select* in place of *query*, None if that cannot be run first."""
        columns = output_columns(select, self._analysed)
        if columns is None:
            return None
        table = self._run_first(select)
        if table is None:
            return None
        self._replaced = True
        if (id(node), table) not in self._holders:
            part = next(name for name, _, part in parts(unwrap(node)) if part is query)
            holder = with_part(unwrap(node), part, pb.Node(select_stmt=result_of(table, columns)))
            self._holders[id(node), table] = node, pb.Node(**{kind(node): holder})
        return self._holders[id(node), table][1]

    def _set_operation(self, select: Tree) -> Tree:
        """The branches of a set operation that compares rows are run first."""
        copy = copied(select)
        for name in ("larg", "rarg"):
            branch = getattr(select, name)
            replaced = self._branch(branch)
            if replaced is not None:
                getattr(copy, name).CopyFrom(replaced)
        if select.HasField("with_clause"):
            copy.with_clause.CopyFrom(rewritten(select.with_clause, self._replace))
        return copy

    def _lies_together(self) -> bool:
        try:
            return self._proof.union(self._select) is not None
        except NotPartitionWise:
            return False

    def _branch(self, branch: Tree) -> Tree | None:
        if branch.op != pb.SETOP_NONE:
            return self._set_operation(branch)
        if not self._proof.reads_sharded(branch) or not self._analysis.stands_alone(branch):
            return None
        labels = {place: node for place, node in enumerate(branch.target_list) if _is_untyped(node.res_target.val)}
        first = _without(labels, branch) if labels else branch
        columns = None if first is None else output_columns(first, self._analysed)
        table = None if columns is None else self._run_first(first)
        if table is None or columns is None:
            return None
        self._replaced = True
        result = result_of(table, columns)
        targets = list(result.target_list)
        for place, label in labels.items():
            targets.insert(place, label)
        del result.target_list[:]
        result.target_list.extend(targets)
        return result

    # -- where they stand -------------------------------------------------------------------------------------------

    def _is_tied(self, link: Tree) -> bool:
        for scope in self._analysis.scopes:
            if any(node is link for node in _links(scope)):
                try:
                    self._proof.sublink(link, scope, list(_carriers(scope)))
                except NotPartitionWise:
                    return False
                return True
        return False

    def _is_rows(self, select: Tree) -> bool:
        """Whether it is partition-wise, or could be once tables are spread: it only filters, joins and projects."""
        try:
            return self._proof.query(select) is not None
        except NotPartitionWise:
            return only_rows(select)


def result_of(table: str, columns: tuple[str, ...]) -> Tree:
    """``SELECT c1 AS name, ... FROM`` a stage's table."""
    select = pb.SelectStmt(limit_option=pb.LIMIT_OPTION_DEFAULT, op=pb.SETOP_NONE)
    for number, name in enumerate(columns, start=1):
        fields = [pb.Node(string=pb.String(sval=part)) for part in (table, f"c{number}")]
        select.target_list.append(target(pb.Node(column_ref=pb.ColumnRef(fields=fields)), name))
    source = pb.RangeVar(schemaname=STAGE_SCHEMA, relname=table, inh=True, relpersistence="p")
    select.from_clause.append(pb.Node(range_var=source))
    return select


def output_columns(select: Tree, analysed: Callable[[Tree], Analysis]) -> Columns:
    """The names of a query's output columns, None if they are not certain."""
    first = select
    while first.op != pb.SETOP_NONE:
        first = first.larg
    return analysed(select).scope_of(first).columns


def _links(scope: Scope) -> Iterator[Tree]:
    return (node for node in walk(scope.select) if isinstance(node, pb.SubLink))


def _carriers(scope: Scope) -> Iterator[Carrier]:
    """All sharded items that a subquery in *scope* could be tied to."""
    current: Scope | None = scope
    while current is not None:
        for item in current.items:
            if item.table is not None and item.table.sharded:
                keys = tuple(item.alias_of(key) or "" for key in item.table.key)
                yield Carrier((item,), item, keys, item.table.key_types)
        current = current.parent


def _has_limit(select: Tree) -> bool:
    return bool(select.HasField("limit_count") or select.HasField("limit_offset"))


def _without(labels: Mapping[int, Tree], select: Tree) -> Tree | None:
    """A query without those of its output columns; None if it has no others, or might mean one by its name or place."""
    named = [*select.sort_clause, *select.distinct_clause, *select.group_clause]
    meant = {output_name(label.res_target) for label in labels.values()}
    columns = [column_fields(node.column_ref) if is_a(node, "column_ref") else () for node in named]
    if len(labels) == len(select.target_list) or any(not it or it[-1] in meant for it in columns):
        return None
    copy = copied(select)
    del copy.target_list[:]
    copy.target_list.extend(node for place, node in enumerate(select.target_list) if place not in labels)
    return copy


def _is_untyped(node: Tree) -> bool:
    """A literal takes its type from the other branches."""
    return is_a(node, "a_const") or is_a(node, "param_ref")
