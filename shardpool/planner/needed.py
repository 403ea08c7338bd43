"""The columns that a query needs of its tables, where names tell it: what is gathered is no wider."""

from __future__ import annotations

from collections.abc import Collection

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, is_star, walk
from shardpool.planner.scopes import Analysis, Scope, references_in
from shardpool.planner.using import expand_star


class Needed:
    """The columns of tables that a query names, other than in the conditions *without*."""

    def __init__(self, select: Tree, analysis: Analysis, without: Collection[Tree] = ()) -> None:
        self._columns: set[tuple[str, str]] = set()
        #: Names that may be columns of any table.
        self._names: set[str] = set()
        #: A row as a whole may be meant, or all columns.
        self.everything = False
        aliases = {item.alias for scope in analysis.scopes for item in scope.items}
        ignored = _stars_of_exists(select)
        dropped = [node for condition in without for node in walk(condition) if isinstance(node, pb.ColumnRef)]
        for reference, scope in references_in(select, analysis):
            if not any(reference is node for node in dropped) and not any(reference is node for node in ignored):
                self._add(reference, scope, aliases, analysis)
        for where in analysis.scopes:
            self.everything = self.everything or where.opaque
            self._names.update(name for _, using in where.using for name in using)

    def has(self, table: str, column: str) -> bool:
        return self.everything or column in self._names or (table, column) in self._columns

    def _add(self, reference: Tree, scope: Scope | None, aliases: set[str], analysis: Analysis) -> None:
        parts = column_fields(reference)
        if parts[-1] == "*":
            members = None if scope is None else expand_star(reference, scope)
            self.everything = self.everything or members is None
        else:
            member = None if scope is None else scope.resolve(reference)
            members = None if member is None else [member]
            if members is None:
                self.everything = self.everything or parts[-1] in aliases or not _is_plain_column(parts, analysis)
                self._names.add(parts[-1])
        for item, name in members or ():
            column = item.column(name)
            if item.table is not None and column is not None:
                self._columns.add((item.table.name, column.name))


def takes_whole_rows(select: Tree, analysis: Analysis) -> bool:
    """Whether a row as a whole may be meant: its type is named after its table."""
    aliases = {item.alias for scope in analysis.scopes for item in scope.items}
    for reference, scope in references_in(select, analysis):
        parts = column_fields(reference)
        is_column = parts[-1] == "*" or (scope is not None and scope.resolve(reference) is not None)
        if not is_column and (parts[-1] in aliases or not _is_plain_column(parts, analysis)):
            return True
    return False


def _stars_of_exists(select: Tree) -> list[Tree]:
    """What EXISTS selects does not matter."""
    links = [node for node in walk(select) if isinstance(node, pb.SubLink)]
    return [
        node.res_target.val.column_ref
        for link in links
        if link.sub_link_type == pb.EXISTS_SUBLINK
        for node in link.subselect.select_stmt.target_list
        if is_star(node.res_target.val)
    ]


def _is_plain_column(parts: tuple[str, ...], analysis: Analysis) -> bool:
    """Whether ``o.x`` is column x of o; it may also be the function x of the row o."""
    if len(parts) == 1:
        return True
    meant = [item for scope in analysis.scopes for item in scope.items if item.alias == parts[-2]]
    return all(item.columns is not None and parts[-1] in item.columns for item in meant)
