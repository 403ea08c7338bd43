"""Scopes: which table each name in a statement means, and which conditions hold for whose rows.

A `Scope` is one SELECT with its FROM items. A `Fact` is a condition (a conjunct of WHERE or ON, or an equality by
USING) together with the items for whose rows it holds: "whenever a row of that item stands in a result row, not
replaced by NULLs, the condition is true". For WHERE that is every item; for the ON of an outer join only those on its
null-supplying side; for the ON of an inner join those below it, or every item if no outer join is above it.

Where the analysis is not sure of a name it says None, and nothing is proven from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, children, column_fields, is_a, unwrap, walk, walk_flat
from shardpool.planner.frozen import is_frozen, once
from shardpool.planner.output import output_name
from shardpool.topology.tables import Column, Table

SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})
SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast"})

#: The schema of temporary tables.
STAGE_SCHEMA = "pg_temp"

#: Column names of a FROM item or CTE; None: not known.
Columns = tuple[str, ...] | None


@dataclass(eq=False)
class Item:
    """A FROM item. `table` is set for the tables of the keyspace, `query` for subqueries and uses of CTEs.

    `node` is what stands in FROM: a RangeVar, RangeSubselect, ...
    """

    alias: str
    columns: Columns
    scope: Scope
    outer: frozenset[int]
    table: Table | None = None
    node: Tree = None
    sampled: bool = False
    query: Tree = None
    #: For a query: the column of the query's own items that each output column is; None for any other expression.
    origins: tuple[Member | None, ...] = ()
    #: For set operations: the definitions that output columns have in each branch; None for any other.
    types: tuple[Column | None, ...] = ()
    #: For a recursive CTE inside of itself: the set operation that it is. Its rows are those of the step before.
    recursion: Tree = None

    def column(self, name: str) -> Column | None:
        """The definition of the table's column that is called *name* here, under a column alias perhaps."""
        if self.columns is None or name not in self.columns:
            return None
        place = self.columns.index(name)
        if self.table is not None:
            return self.table.columns[place]
        if self.types:
            return self.types[place] if place < len(self.types) else None
        origin = self.origins[place] if place < len(self.origins) else None
        return None if origin is None else origin[0].column(origin[1])

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of its columns, as far as they are known."""
        return frozenset(self.columns or ())

    def alias_of(self, column: str) -> str | None:
        """What the table's column *column* is called here."""
        assert self.table is not None and self.columns is not None
        place = next((i for i, found in enumerate(self.table.columns) if found.name == column), None)
        return None if place is None else self.columns[place]


#: A column of a FROM item.
Member = tuple[Item, str]


@dataclass(eq=False)
class Fact:
    """A condition, or (with USING) an equality of two columns. `items` None: holds for the rows of every item.

    `outer` are the outer joins on whose null-supplying side the condition is checked: items under just these joins may
    be filtered by it beforehand.
    """

    items: frozenset[Item] | None
    outer: frozenset[int]
    condition: Tree = None
    equality: tuple[Member, Member] | None = None
    #: What unqualified names in the condition may mean: the items below its join, None for all of the scope.
    visible: frozenset[Item] | None = None
    #: What `pins` has made of it.
    meaning: Any = None

    def holds_for(self, item: Item) -> bool:
        return self.items is None or item in self.items


@dataclass(frozen=True)
class Merge:
    """A join by USING: the items below it that have the column. `item`: the one whose column is equal to the merged
    one in every row, None if none surely is; with `exact` it has the same type.
    """

    items: frozenset[Item]
    item: Item | None
    exact: bool


@dataclass(eq=False)
class Scope:
    select: Tree
    parent: Scope | None
    items: list[Item] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    #: Columns merged by USING: the item whose column has the value, or None where it may be either's.
    merged: dict[str, Item | None] = field(default_factory=dict)
    #: The joins that merge columns of a name.
    merges: dict[str, list[Merge]] = field(default_factory=dict)
    #: Joins, each with the columns of its USING, or those that NATURAL means.
    using: list[tuple[Tree, tuple[str, ...]]] = field(default_factory=list)
    #: Names cannot be resolved here (aliased joins, NATURAL JOIN of columns that are not known).
    opaque: bool = False
    #: Nothing is added to it any more.
    complete: bool = False
    #: The output columns, and for each the column of an item that it is; None for any other expression.
    columns: Columns = None
    origins: tuple[Member | None, ...] = ()

    def resolve(self, column_ref: Tree, visible: frozenset[Item] | None = None) -> Member | None:
        """Return the item and column name that a ColumnRef means, here or in an enclosing scope; None if not sure."""
        resolve = _resolved if self.complete and is_frozen(column_ref) else _resolve
        return resolve(self, column_ref, visible)

    def _find(self, column_ref: Tree, visible: frozenset[Item] | None) -> Member | None:
        items = self.items if visible is None else [item for item in self.items if item in visible]
        parts = column_fields(column_ref)
        if self.opaque or parts[-1] == "*" or len(parts) > 3:
            return None
        name = parts[-1]
        if len(parts) == 1:
            if name in self.merged:
                item = self.merged[name]
                also = {other for other in items if other.columns is None or name in other.columns}
                return (item, name) if item in items and also <= self.merges[name][0].items else None
            found = [item for item in items if name in item.names]
            unknown = len(found) != 1 and any(item.columns is None for item in items)
        else:
            found = [item for item in items if item.alias == parts[-2] and self._qualifies(item, parts)]
            unknown = False
            if found and (found[0].columns is None or name not in found[0].columns):
                return None
        if len(found) == 1:
            return found[0], name
        if found or unknown or self.parent is None:
            return None
        return self.parent.resolve(column_ref)

    def using_of(self, join: Tree) -> tuple[str, ...]:
        """The columns that a join merges."""
        return next((using for found, using in self.using if found is join), ())

    def so_far(self) -> Scope:
        """What a LATERAL item sees: the items to its left."""
        return Scope(
            self.select,
            self.parent,
            list(self.items),
            merged=dict(self.merged),
            merges=dict(self.merges),
            opaque=self.opaque,
        )

    def _qualifies(self, item: Item, parts: tuple[str, ...]) -> bool:
        if len(parts) == 2:
            return True
        return item.table is not None and not item.node.HasField("alias")


def _resolve(scope: Scope, column_ref: Tree, visible: frozenset[Item] | None) -> Member | None:
    return scope._find(column_ref, visible)


_resolved = once(_resolve)


@dataclass(eq=False)
class Analysis:
    """All scopes of a statement, and all occurrences of the keyspace's tables in them."""

    select: Tree
    scopes: list[Scope] = field(default_factory=list)
    occurrences: list[Item] = field(default_factory=list)
    #: An item of another kind than a table: subquery, function, CTE, VALUES.
    composed: bool = False
    #: The set operations that read their own rows.
    recursions: list[Tree] = field(default_factory=list)

    @cached_property
    def uncertain(self) -> str | None:
        """The first reference in the statement that is not certain to be a column, None if all are."""
        for reference, scope in references_in(self.select, self):
            fields = column_fields(reference)
            if fields[-1] != "*" and (scope is None or scope.resolve(reference) is None):
                return ".".join(fields)
        return None

    @cached_property
    def has_subqueries(self) -> bool:
        """Whether there are other queries in it."""
        return len(self.scopes) > 1 or self.select.op != pb.SETOP_NONE

    def scope_of(self, select: Tree) -> Scope:
        """Return the scope of a SelectStmt that is no set operation."""
        return next(scope for scope in self.scopes if scope.select is select)

    def scopes_in(self, message: Tree) -> list[Scope]:
        """Return the scopes of all SelectStmts in *message*, at any depth."""
        inside = [node for node in walk(message) if isinstance(node, pb.SelectStmt)]
        return [scope for scope in self.scopes if any(node is scope.select for node in inside)]

    def reads_outer_cte(self, message: Tree) -> bool:
        """Whether *message* reads a CTE that is defined outside of it."""
        own = {node.ctename for node in walk(message) if isinstance(node, pb.CommonTableExpr)}
        return any(
            isinstance(item.node, pb.RangeVar)
            and item.table is None
            and item.node.schemaname != STAGE_SCHEMA
            and item.node.relname not in own
            for scope in self.scopes_in(message)
            for item in scope.items
        )

    def stands_alone(self, select: Tree) -> bool:
        """Whether a query looks at nothing outside of itself: neither columns nor CTEs."""
        inside = self.scopes_in(select)
        for reference, scope in references_in(select, self):
            member = None if scope is None else scope.resolve(reference)
            if column_fields(reference)[-1] != "*" and (member is None or member[0].scope not in inside):
                return False
        return not self.reads_outer_cte(select)


@once
def references_in(select: Tree, analysis: Analysis) -> list[tuple[Tree, Scope | None]]:
    """Return the `references` in a query that was analysed."""
    return list(references(select, None, analysis))


def references(message: Tree, scope: Scope | None, analysis: Analysis) -> Iterator[tuple[Tree, Scope | None]]:
    """Yield all ColumnRefs in *message*, each with the scope that it stands in.

    Names in ORDER BY that mean an output column are left out.
    """
    current = unwrap(message)
    outputs: frozenset[str] = frozenset()
    if isinstance(current, pb.ColumnRef):
        yield current, scope
    elif isinstance(current, pb.SelectStmt):
        if current.op == pb.SETOP_NONE:
            scope = analysis.scope_of(current)
            outputs = frozenset(output_name(node.res_target) or "" for node in current.target_list)
        for descriptor, value in current.ListFields():
            if descriptor.message_type is None:
                continue
            for child in value if descriptor.is_repeated else (value,):
                if not _names_output(child, descriptor.name, current, outputs, scope):
                    yield from references(child, scope, analysis)
    else:
        for node in walk_flat(current):
            if isinstance(node, pb.ColumnRef):
                yield node, scope
            for child in children(node):
                if isinstance(child, pb.SelectStmt):
                    yield from references(child, scope, analysis)


def _names_output(node: Tree, clause: str, select: Tree, outputs: frozenset[str], scope: Scope | None) -> bool:
    """ORDER BY takes a bare name for an output column first, GROUP BY for an input column first."""
    inner = node.sort_by.node if clause == "sort_clause" else node
    if clause not in ("sort_clause", "group_clause", "distinct_clause") or not is_a(inner, "column_ref"):
        return False
    if len(inner.column_ref.fields) != 1:
        return False
    if select.op != pb.SETOP_NONE:
        return True
    found = column_fields(inner.column_ref)[0] in outputs
    return found and (clause != "group_clause" or scope is None or scope.resolve(inner.column_ref) is None)
