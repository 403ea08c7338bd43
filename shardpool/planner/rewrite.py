"""Building trees: fragments from text, copies with parts replaced, and a canonical form for comparing expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import LEAVES, Tree, has_subquery, kind, parse, unlocated, unwrap
from shardpool.planner.scopes import Scope

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


def target(node: Tree, name: str = "") -> Tree:
    """Return a Node of the target list: *node* AS *name*."""
    return pb.Node(res_target=pb.ResTarget(name=name, val=node))


def rewritten(node: Tree, replace: Replace) -> Tree:
    """Return a copy of a Node in which every outermost Node that *replace* answers for is replaced.

    *replace* is given the nodes of the original, so that it can recognise them.
    """
    found = replace(node) if isinstance(node, pb.Node) else None
    if found is not None:
        return found
    copy = copied(node)
    _rewrite_below(node, copy, replace)
    return copy


def _rewrite_below(original: Tree, copy: Tree, replace: Replace) -> None:
    for before, after in zip(_below(original), _below(copy), strict=True):
        if type(before) is pb.Node:
            found = replace(before)
            if found is not None:
                after.CopyFrom(found)
                continue
        inner = unwrap(before)
        if type(inner) not in LEAVES and type(inner) is not pb.ColumnRef:
            _rewrite_below(inner, unwrap(after), replace)


def canonical(node: Tree, scope: Scope) -> bytes:
    """Return bytes that are equal for expressions that mean the same: positions gone, columns by item and name.

    In a subquery names may mean something else: expressions with one must be written alike.
    """
    if has_subquery(node):
        return bytes(unlocated(node).SerializeToString(deterministic=True))

    def by_item(inner: Tree) -> Tree | None:
        if inner.WhichOneof("node") != "column_ref":
            return None
        member = scope.resolve(inner.column_ref)
        if member is None or member[0] not in scope.items:
            return None
        name = f"{scope.items.index(member[0])}.{member[1]}"
        return column(name)

    return bytes(unlocated(rewritten(node, by_item)).SerializeToString(deterministic=True))


def without(select: Tree, conditions: Iterable[Tree]) -> Tree:
    """Return a copy of a SelectStmt in which *conditions* are true. They are found by their places in the text."""
    places = {(kind(condition), unwrap(condition).location) for condition in conditions}

    def replace(node: Tree) -> Tree | None:
        found = unwrap(node)
        return expression("true") if (kind(node), getattr(found, "location", None)) in places else None

    return rewritten(select, replace)


#: Where tables are read: the position of an occurrence in the user's text -> schema and name.
Places = Mapping[int, tuple[str, str]]


def placed(select: Tree, places: Places, keyspace: str) -> Tree:
    """Return a copy of a SelectStmt in which the occurrences of tables are named as *places* says.

    References like ``orders.id`` go on working: a table in a schema is still called by its bare name, one of another
    name gets its own as alias.
    """
    copy = copied(select)
    _place(copy, places, keyspace)
    return copy


def _place(message: Tree, places: Places, keyspace: str) -> None:
    for child in _below(message):
        if isinstance(child, pb.RangeVar):
            if child.location in places and child.schemaname in ("", keyspace):
                schema, name = places[child.location]
                if name != child.relname and not child.HasField("alias"):
                    child.alias.aliasname = child.relname
                child.schemaname, child.relname = schema, name
        elif isinstance(child, pb.ColumnRef) and len(child.fields) == 3 and child.fields[0].string.sval == keyspace:
            del child.fields[0]
        else:
            _place(child, places, keyspace)


def _below(message: Tree) -> list[Tree]:
    """The direct submessages, as they stand: `Node` wrappers are not opened."""
    found: list[Tree] = []
    for field, value in message.ListFields():
        if field.message_type is not None:
            found.extend(value if field.is_repeated else (value,))
    return found
