"""What the shapes of pushdown share: the columns of the partial query, and the merge query over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, is_a, is_star
from shardpool.planner.carriers import Carrier
from shardpool.planner.output import output_name
from shardpool.planner.partitionwise import PartitionWise
from shardpool.planner.rewrite import canonical, copied, expression, target
from shardpool.planner.scopes import Analysis, Scope, references
from shardpool.planner.using import expand_star


class Refused(Exception):
    """The shape has no plan; the message says why."""


@dataclass(frozen=True, eq=False)
class Level:
    """The top level of a query whose FROM and WHERE are partition-wise. `partial` names the table of partial rows."""

    select: Tree
    scope: Scope
    analysis: Analysis
    proof: PartitionWise
    carriers: Sequence[Carrier]
    partial: str

    def outputs(self) -> list[tuple[Tree, str]]:
        """The output columns as (expression, name), stars expanded."""
        found: list[tuple[Tree, str]] = []
        for node in self.select.target_list:
            value = node.res_target.val
            if is_star(value):
                expanded = expand_star(value.column_ref, self.scope)
                if expanded is None:
                    raise Refused("a star whose columns are not certain")
                for item, name in expanded:
                    fields = [pb.Node(string=pb.String(sval=part)) for part in (item.alias, name)]
                    found.append((pb.Node(column_ref=pb.ColumnRef(fields=fields)), name))
                continue
            name_of = output_name(node.res_target)
            if name_of is None:
                raise Refused("the name of an output column is not certain")
            found.append((value, name_of))
        return found

    def merge_skeleton(self) -> Tree:
        """``SELECT FROM`` the partial rows, with the user's LIMIT and OFFSET."""
        select = self.select
        merge = pb.SelectStmt(limit_option=select.limit_option, op=pb.SETOP_NONE)
        merge.from_clause.append(pb.Node(range_var=pb.RangeVar(relname=self.partial, inh=True, relpersistence="p")))
        for name in ("limit_count", "limit_offset"):
            if select.HasField(name):
                if self.proof.reads_sharded(getattr(select, name)) or self.analysis.reads_outer_cte(
                    getattr(select, name)
                ):
                    raise Refused("LIMIT or OFFSET reads a sharded table")
                getattr(merge, name).CopyFrom(getattr(select, name))
        return merge

    def column(self, name: str) -> Tree:
        """A partial column in the merge query. Qualified: in ORDER BY a bare name may mean an output column."""
        fields = [pb.Node(string=pb.String(sval=part)) for part in (self.partial, name)]
        return pb.Node(column_ref=pb.ColumnRef(fields=fields))

    def sort_expression(self, node: Tree, outputs: list[tuple[Tree, str]]) -> Tree:
        """What ORDER BY or DISTINCT ON means: an output column by name or place, else the expression itself."""
        if is_a(node, "param_ref"):
            raise Refused("ORDER BY a parameter")
        if is_a(node, "column_ref") and len(node.column_ref.fields) == 1:
            name = column_fields(node.column_ref)[0]
            matches = [value for value, output in outputs if output == name]
            if len(matches) > 1:
                raise Refused(f"ORDER BY {name} could mean several output columns")
            return matches[0] if matches else node
        return by_place(node, outputs)

    def group_expression(self, node: Tree, outputs: list[tuple[Tree, str]]) -> Tree:
        """What GROUP BY groups by. A bare name means an input column first, then an output column."""
        if is_a(node, "param_ref"):
            raise Refused("GROUP BY a parameter")
        if is_a(node, "column_ref") and self.scope.resolve(node.column_ref) is None:
            name = column_fields(node.column_ref)[-1]
            if self.scope.opaque or any(item.columns is None or name in item.columns for item in self.scope.items):
                raise Refused(f"GROUP BY {name} is not certain")
            matches = [value for value, output in outputs if output == name]
            if len(node.column_ref.fields) != 1 or len(matches) != 1:
                raise Refused(f"GROUP BY {name} is not certain")
            return matches[0]
        return by_place(node, outputs)

    def check_columns(self) -> None:
        """Every reference must be a column: whole rows have another type in every partition."""
        if self.analysis.uncertain is not None:
            raise Refused(f"{self.analysis.uncertain} is not certain to be a column")

    def own(self, link: Tree) -> list[Tree]:
        """The references inside of a subquery that mean columns of this level."""
        found = []
        for reference, scope in references(link, self.scope, self.analysis):
            member = None if scope is None else scope.resolve(reference)
            if member is not None and member[0].scope is self.scope:
                found.append(reference)
        return found


class Columns:
    """The columns of the partial query: one per different expression, named c1, c2, ..."""

    def __init__(self, level: Level) -> None:
        self._level = level
        self._names: dict[bytes, str] = {}
        self.targets: list[Tree] = []

    def add(self, node: Tree) -> str:
        """Return the column of an expression. It must be repeatable, and see one partition only."""
        key = canonical(node, self._level.scope)
        if key not in self._names:
            self._level.proof.expression(node, self._level.scope, self._level.carriers)
            self._names[key] = f"c{len(self._names) + 1}"
            self.targets.append(target(node, self._names[key]))
        return self._names[key]

    def find(self, node: Tree) -> str | None:
        return self._names.get(canonical(node, self._level.scope))


def by_place(node: Tree, outputs: list[tuple[Tree, str]]) -> Tree:
    if is_a(node, "a_const"):
        place = node.a_const.ival.ival
        if node.a_const.WhichOneof("val") != "ival" or not 1 <= place <= len(outputs):
            raise Refused("a constant in ORDER BY or GROUP BY is no output column")
        return outputs[place - 1][0]
    return node


def place(name: str) -> Tree:
    """The place of a partial column, to sort and group by: a name could mean one of the user's columns."""
    return expression(name.removeprefix("c"))


def partial_of(select: Tree, columns: Columns) -> Tree:
    """A copy that gives *columns* of the rows of FROM and WHERE, and nothing else of the query."""
    partial = copied(select)
    for name in ("target_list", "sort_clause", "group_clause", "window_clause", "distinct_clause"):
        del getattr(partial, name)[:]
    for name in ("having_clause", "limit_count", "limit_offset"):
        partial.ClearField(name)
    partial.limit_option = pb.LIMIT_OPTION_DEFAULT
    partial.group_distinct = False
    partial.target_list.extend(columns.targets or [target(expression("1"), "c1")])
    return partial
