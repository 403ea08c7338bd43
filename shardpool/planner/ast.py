"""PostgreSQL's parse tree, and the way from a tree back to text with a proof.

Nodes are the protobuf messages of libpg_query. A `Node` message wraps exactly one other; `unwrap` opens it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import postgast
from google.protobuf.message import DecodeError
from postgast import pg_query_pb2 as pb

from shardpool.errors import InvalidSQL
from shardpool.planner.depth import parsed
from shardpool.planner.frozen import Below, Part, below, planning
from shardpool.planner.positions import same
from shardpool.planner.refusals import refuse

#: Any message of the tree. libpg_query's classes are generated; their fields are checked by the tests, not by mypy.
Tree: TypeAlias = Any


#: The parser's C code recurses without looking at its stack: long texts are counted first, in characters and operators.
LONG_TEXT = 20_000
MAX_OPERATORS = 5_000
#: Where they do nest, that many take seconds to plan.
MAX_NESTED = 2_500
_FLAT = {pb.ASCII_40, pb.ASCII_41, pb.ASCII_44, pb.ASCII_46, pb.ICONST, pb.FCONST, pb.SCONST, pb.PARAM, pb.IDENT}


def _operators(sql: str) -> int:
    """How many tokens of a text could nest: all but names, literals, parameters, commas, dots and parentheses."""
    try:
        return sum(1 for token in postgast.scan(sql).tokens if token.token not in _FLAT)
    except postgast.PgQueryError as error:
        raise InvalidSQL(error.message) from error


def parse(sql: str) -> Tree:
    """Parse *sql* into a `ParseResult`. Raise `InvalidSQL` with PostgreSQL's own message, or refuse deep nesting."""
    if len(sql) > LONG_TEXT and _operators(sql) > MAX_OPERATORS:
        raise refuse("SP115")
    try:
        return postgast.parse(sql)
    except DecodeError as error:
        if _operators(sql) > MAX_NESTED:
            raise refuse("SP115") from error
        return parsed(sql)
    except postgast.PgQueryError as error:
        raise InvalidSQL(f"{error.message} (at character {error.cursorpos})") from error


def kind(node: Tree) -> str:
    """Return the name of what a `Node` wraps: ``column_ref``, ``select_stmt``, ... or "" for an empty one."""
    return node.WhichOneof("node") or ""


def unwrap(node: Tree) -> Tree:
    """Return what a `Node` wraps; anything else as it is."""
    if type(node) is pb.Node:
        name = node.WhichOneof("node")
        return getattr(node, name) if name else node
    return node


def is_a(node: Tree, name: str) -> bool:
    return type(node) is pb.Node and node.WhichOneof("node") == name


def row_columns(node: Tree) -> list[Tree]:
    """Return the expressions of a row, ``(a, b)`` or ``ROW(a, b)``; none of one with a star, and of all else."""
    found = list(node.row_expr.args) if is_a(node, "row_expr") else []
    return [] if any(is_star(column) for column in found) else found


def equal_rows(node: Tree) -> list[tuple[Tree, Tree]]:
    """Return what ``(a, b) = (c, d)`` compares: a and c, b and d; nothing for all else, nor beside subqueries, which
    are known by where they stand."""
    if not is_a(node, "a_expr") or node.a_expr.kind != pb.AEXPR_OP or names(node.a_expr.name) != ("=",):
        return []
    left, right = row_columns(node.a_expr.lexpr), row_columns(node.a_expr.rexpr)
    if len(left) != len(right) or any(isinstance(part, pb.SubLink) for part in walk_flat(node)):
        return []
    return list(zip(left, right, strict=True))


#: Messages below which there is nothing to look for: names, literals, and what a type is called.
LEAVES = frozenset([pb.A_Const, pb.ParamRef, pb.TypeName, pb.String])


def parts(message: Tree) -> list[Part]:
    """Return the direct submessages as they stand: `Node` wrappers are not opened."""
    known = below(message)
    if known is not None and known.parts is not None:
        return known.parts
    found: list[Part] = []
    for field, value in message.ListFields():
        if field.message_type is not None:
            name = field.name
            if field.is_repeated:
                found += [(name, place, item) for place, item in enumerate(value)]
            else:
                found.append((name, None, value))
    if known is not None:
        known.parts = found
    return found


def children(message: Tree) -> list[Tree]:
    """Return the direct submessages, `Node` wrappers opened, names aside. Of a ColumnRef only its star counts."""
    known = below(message)
    return _children(message) if known is None else known.children


def _children(message: Tree) -> list[Tree]:
    kind_of = type(message)
    if kind_of in LEAVES:
        return []
    if kind_of is pb.ColumnRef:
        return [field.a_star for field in message.fields if field.WhichOneof("node") == "a_star"]
    found = []
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else (value,):
                inner = unwrap(item)
                if type(inner) is not pb.String:
                    found.append(inner)
    return found


def freeze(message: Tree) -> None:
    """Promise that *message* and all below it are not changed again, so that they are read once (see `frozen`)."""
    memory = planning.memory
    if memory is None:
        return
    stack = [unwrap(message)]
    while stack:
        current = stack.pop()
        if id(current) not in memory.below:
            found = _children(current)
            memory.below[id(current)] = Below(current, found)
            stack += found


def walk(message: Tree) -> list[Tree]:
    """Return *message* and all below it, `Node` wrappers opened, parents first. The list is not the caller's."""
    return _walked(unwrap(message), flat=False)


def walk_flat(message: Tree) -> list[Tree]:
    """Return *message* and all below it as `walk` does, but not what is inside of subqueries."""
    return _walked(unwrap(message), flat=True)


def _walked(message: Tree, *, flat: bool) -> list[Tree]:
    known = below(message)
    if known is None:
        return _walk(message, flat=flat)
    if flat not in known.walks:
        known.walks[flat] = _walk(message, flat=flat)
    return known.walks[flat]


def _walk(message: Tree, *, flat: bool) -> list[Tree]:
    found = []
    stack = [message]
    while stack:
        current = stack.pop()
        found.append(current)
        inside = children(current)[::-1]
        stack += [child for child in inside if type(child) is not pb.SelectStmt] if flat else inside
    return found


def has_subquery(expression: Tree) -> bool:
    """Whether there is a subquery in an expression."""
    return any(type(node) is pb.SubLink for node in walk_flat(expression))


def names(nodes: Tree) -> tuple[str, ...]:
    """Return the strings of a list of String nodes: a function's, type's or operator's qualified name."""
    return tuple([node.string.sval for node in nodes if node.WhichOneof("node") == "string"])


def column_fields(column_ref: Tree) -> tuple[str, ...]:
    """Return a ColumnRef's parts, a star as ``*``."""
    known = below(column_ref)
    if known is None:
        return _column_fields(column_ref)
    if known.fields is None:
        known.fields = _column_fields(column_ref)
    return known.fields


def _column_fields(column_ref: Tree) -> tuple[str, ...]:
    fields = column_ref.fields
    return tuple([field.string.sval if field.WhichOneof("node") == "string" else "*" for field in fields])


def is_star(node: Tree) -> bool:
    """Whether a node is ``*`` or ``t.*``, which is no expression."""
    return is_a(node, "column_ref") and bool(node.column_ref.fields[-1].WhichOneof("node") == "a_star")


class UnfaithfulText(Exception):
    """Text generated from a tree does not parse back to that tree: it must not be sent."""


def to_sql(select: Tree) -> str:
    """Return the text of a SelectStmt, proven: parsed again it gives exactly this tree. Raise `UnfaithfulText`."""
    result = pb.ParseResult()
    result.stmts.add().stmt.select_stmt.CopyFrom(select)
    return _proven_text(result)


def statement_sql(node: Tree) -> str:
    """Return the text of a statement, a Node, proven as in `to_sql`. Raise `UnfaithfulText`."""
    result = pb.ParseResult()
    result.stmts.add().stmt.CopyFrom(node)
    return _proven_text(result)


def _proven_text(tree: Tree) -> str:
    memory = planning.memory
    if memory is None:
        return _prove_text(tree)
    key = tree.SerializeToString()
    if key not in memory.texts:
        memory.texts[key] = _prove_text(tree)
    return memory.texts[key]


def _prove_text(tree: Tree) -> str:
    try:
        sql = postgast.deparse(tree)
        again = parsed(sql)
    except postgast.PgQueryError as error:
        raise UnfaithfulText(str(error)) from error
    if len(again.stmts) != 1 or not same(again.stmts[0].stmt, tree.stmts[0].stmt):
        raise UnfaithfulText(sql)
    return sql
