"""Building trees: fragments from text, copies with parts replaced, and a canonical form for comparing expressions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, parse, unlocated
from shardpool.planner.plan import PARTIAL_TABLE, SCHEMA_MARKER
from shardpool.planner.scopes import Item, Scope

#: Given a Node, returns its replacement, or None to look inside of it.
Replace = Callable[[Tree], Tree | None]


def copied(message: Tree) -> Tree:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


@cache
def _template(text: str) -> Tree:
    return parse("SELECT " + text).stmts[0].stmt.select_stmt.target_list[0].res_target.val


def expression(text: str) -> Tree:
    """Return the Node of a constant fragment of SQL."""
    return copied(_template(text))


def column(name: str) -> Tree:
    """Return a Node that refers to a column by its bare name."""
    return pb.Node(column_ref=pb.ColumnRef(fields=[pb.Node(string=pb.String(sval=name))]))


def partial_column(name: str) -> Tree:
    """Return a Node that refers to a partial column. Qualified: in ORDER BY a bare name may mean an output column."""
    fields = [pb.Node(string=pb.String(sval=part)) for part in (PARTIAL_TABLE, name)]
    return pb.Node(column_ref=pb.ColumnRef(fields=fields))


def target(node: Tree, name: str = "") -> Tree:
    """Return a Node of the target list: *node* AS *name*."""
    return pb.Node(res_target=pb.ResTarget(name=name, val=node))


def replaced(node: Tree, replace: Replace) -> Tree:
    """Return a copy of a Node in which every outermost Node that *replace* answers for is replaced."""
    found = replace(node)
    if found is not None:
        return found
    copy = copied(node)
    _replace_below(copy, replace)
    return copy


def _replace_below(message: Tree, replace: Replace) -> None:
    for child in _below(message):
        found = replace(child) if isinstance(child, pb.Node) else None
        if found is not None:
            child.CopyFrom(found)
        else:
            _replace_below(child, replace)


def canonical(node: Tree, scope: Scope) -> bytes:
    """Return bytes that are equal for expressions that mean the same: positions gone, columns by item and name."""

    def by_item(inner: Tree) -> Tree | None:
        if inner.WhichOneof("node") != "column_ref":
            return None
        member = scope.resolve(inner.column_ref)
        if member is None or member[0] not in scope.items:
            return None
        name = f"{scope.items.index(member[0])}.{member[1]}"
        return column(name)

    return bytes(unlocated(replaced(node, by_item)).SerializeToString(deterministic=True))


def per_partition(select: Tree, items: list[Item], keyspace: str) -> Tree:
    """Return a copy of a SelectStmt in which sharded tables are named in the partition's schema.

    References like ``orders.id`` go on working: a table in a schema is still called by its bare name.
    """
    sharded = {item.node.relname for item in items if item.table is not None and item.table.sharded}
    copy = copied(select)
    _qualify(copy, sharded, keyspace)
    return copy


def _qualify(message: Tree, sharded: set[str], keyspace: str) -> None:
    for child in _below(message):
        if isinstance(child, pb.RangeVar):
            child.schemaname = SCHEMA_MARKER if child.relname in sharded else ""
        elif isinstance(child, pb.ColumnRef) and len(child.fields) == 3 and child.fields[0].string.sval == keyspace:
            del child.fields[0]
        else:
            _qualify(child, sharded, keyspace)


def _below(message: Tree) -> list[Tree]:
    """The direct submessages, as they stand: `Node` wrappers are not opened."""
    found: list[Tree] = []
    for field, value in message.ListFields():
        if field.message_type is not None:
            found.extend(value if field.is_repeated else (value,))
    return found
