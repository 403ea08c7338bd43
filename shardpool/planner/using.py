"""Joins by USING, and NATURAL ones: the columns that they merge, and what a star stands for above them."""

from __future__ import annotations

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, unwrap
from shardpool.planner.scopes import Item, Member, Merge, Scope
from shardpool.topology.key import KEY_TYPES
from shardpool.topology.tables import Column


def common_columns(left: list[Item], right: list[Item], scope: Scope) -> tuple[str, ...] | None:
    """The columns on which a NATURAL JOIN joins; None if they are not certain."""
    if any(item.columns is None for item in (*left, *right)):
        return None
    of_right = {name for item in right for name in item.columns or ()}
    found = dict.fromkeys(name for item in left for name in item.columns or () if name in of_right)
    once = all(_has_once(name, items, scope) for name in found for items in (left, right))
    return tuple(found) if once else None


def _has_once(name: str, items: list[Item], scope: Scope) -> bool:
    """Whether a side of a join has one column of a name, and PostgreSQL would not call it ambiguous."""
    having = frozenset(item for item in items if name in item.names)
    merged = any(merge.items == having for merge in scope.merges.get(name, []))
    return (len(having) == 1 or merged) and all((item.columns or ()).count(name) == 1 for item in having)


def merge_of(name: str, items: list[Item], scope: Scope) -> Merge:
    """What a side of a join has by a column's name: one item's column, or one that a join below has merged."""
    having = frozenset(item for item in items if item.columns is None or name in item.columns)
    if len(having) == 1:
        return Merge(having, next(iter(having)), True)
    found = (merge for merge in scope.merges.get(name, []) if merge.items == having)
    return next(found, Merge(having, None, False))


def hash_alike(left: Column | None, right: Column | None) -> bool:
    """Whether columns of two types that are equal are so as keys, too."""
    if left is None or right is None or left.collation != right.collation:
        return False
    key_type = KEY_TYPES.get(left.base_type)
    return key_type is not None and key_type == KEY_TYPES.get(right.base_type)


def type_of(column: Column | None) -> tuple[str, str] | None:
    return None if column is None else (column.type, column.collation)


def expand_star(column_ref: Tree, scope: Scope) -> list[Member] | None:
    """Return the columns that ``*`` or ``t.*`` stands for; None if not sure."""
    parts = column_fields(column_ref)
    if scope.opaque or len(parts) > 2:
        return None
    if len(parts) == 2:
        items = [item for item in scope.items if item.alias == parts[0]]
        return _certain([_columns(item) for item in items]) if items else None
    return _certain([_starred(node, scope) for node in scope.select.from_clause])


#: Names of columns in their order, each with the item whose column it is; None: not known.
_Starred = list[tuple[Item | None, str]] | None


def _certain(parts: list[_Starred]) -> list[Member] | None:
    columns = [] if not parts or None in parts else [column for part in parts for column in part or ()]
    members = [(item, name) for item, name in columns if item is not None]
    return members if members and len(members) == len(columns) else None


def _columns(item: Item) -> _Starred:
    return None if item.columns is None else [(item, name) for name in item.columns]


def _starred(node: Tree, scope: Scope) -> _Starred:
    """Merged columns stand before the others of their join."""
    found = unwrap(node)
    if not isinstance(found, pb.JoinExpr):
        found = unwrap(found.relation) if isinstance(found, pb.RangeTableSample) else found
        item = next((item for item in scope.items if item.node is found), None)
        return None if item is None else _columns(item)
    left, right = (_starred(side, scope) for side in (found.larg, found.rarg))
    if left is None or right is None:
        return None
    using = scope.using_of(found)
    merged = [(scope.merged.get(name), name) for name in using]
    return merged + [column for column in (*left, *right) if column[1] not in using]
