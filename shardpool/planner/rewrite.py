"""Building trees: fragments from text, copies with parts replaced, and a canonical form for comparing expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TypeAlias

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import LEAVES, Tree, has_subquery, kind, parse, parts, unwrap
from shardpool.planner.positions import meaning
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
    return changed(node, changes(node, replace)) if found is None else found


#: What is to be put in the place of submessages, or into them: the field's name, the place in its list, and what.
Changes: TypeAlias = "list[tuple[str, int | None, Tree | Changes]]"


def changes(message: Tree, replace: Replace) -> Changes:
    """Return what *replace* answers for the outermost Nodes in *message*."""
    found: Changes = []
    for name, place, part in parts(message):
        inner = part
        if type(part) is pb.Node:
            new = replace(part)
            if new is not None:
                found.append((name, place, new))
                continue
            inner = unwrap(part)
        if type(inner) not in LEAVES and type(inner) is not pb.ColumnRef:
            below = changes(inner, replace)
            if below:
                found.append((name, place, below))
    return found


def changed(message: Tree, made: Changes) -> Tree:
    """Return a copy of *message* with the changes made."""
    copy = copied(message)
    _apply(made, copy)
    return copy


def with_part(message: Tree, name: str, part: Tree) -> Tree:
    """Return a copy of *message* with *part* for its submessage *name*, which is not copied."""
    copy = type(message)()
    for field, value in message.ListFields():
        if field.name == name:
            getattr(copy, name).CopyFrom(part)
        elif field.is_repeated:
            getattr(copy, field.name).extend(value)
        elif field.message_type is not None:
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)
    return copy


def _apply(made: Changes, copy: Tree) -> None:
    for name, place, change in made:
        part = getattr(copy, name) if place is None else getattr(copy, name)[place]
        if isinstance(change, list):
            _apply(change, unwrap(part))
        else:
            part.CopyFrom(change)


def canonical(node: Tree, scope: Scope) -> bytes:
    """Return bytes that are equal for expressions that mean the same: positions gone, columns by item and name.

    In a subquery names may mean something else: expressions with one must be written alike.
    """
    if has_subquery(node):
        return meaning(node)

    def item_column(inner: Tree) -> str | None:
        member = scope.resolve(inner.column_ref) if inner.WhichOneof("node") == "column_ref" else None
        if member is None or member[0] not in scope.items:
            return None
        return f"{scope.items.index(member[0])}.{member[1]}"

    def by_item(inner: Tree) -> Tree | None:
        name = item_column(inner)
        return None if name is None else column(name)

    name = item_column(node)
    if name is not None:
        return b"\0" + name.encode()  # no message begins so
    return meaning(rewritten(node, by_item))


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
    for _, _, part in parts(message):
        child = unwrap(part)
        if isinstance(child, pb.RangeVar):
            if child.location in places and child.schemaname in ("", keyspace):
                schema, name = places[child.location]
                if name != child.relname and not child.HasField("alias"):
                    child.alias.aliasname = child.relname
                child.schemaname, child.relname = schema, name
        elif isinstance(child, pb.ColumnRef) and len(child.fields) == 3 and child.fields[0].string.sval == keyspace:
            del child.fields[0]
        elif type(child) not in LEAVES and type(child) is not pb.ColumnRef:
            _place(child, places, keyspace)
