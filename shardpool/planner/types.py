"""Types of simple expressions: just enough to combine partial sums and averages. None: not known."""

from __future__ import annotations

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, names, unwrap
from shardpool.planner.scopes import Scope

_INTEGERS = ("smallint", "integer", "bigint")
_ALIASES = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "numeric": "numeric",
    "float4": "real",
    "float8": "double precision",
}


def type_of(node: Tree, scope: Scope) -> str | None:
    """Return smallint, integer, bigint, numeric, real or double precision for a numeric expression."""
    value = unwrap(node)
    match value:
        case pb.ColumnRef():
            return _column_type(value, scope)
        case pb.A_Const():
            return {"ival": "integer"}.get(value.WhichOneof("val") or "") or _float_type(value)
        case pb.TypeCast():
            if value.type_name.array_bounds:
                return None
            return _ALIASES.get(names(value.type_name.names)[-1])
        case pb.A_Expr():
            return _operator_type(value, scope)
    return None


def _column_type(column_ref: Tree, scope: Scope) -> str | None:
    member = scope.resolve(column_ref)
    if member is None:
        return None
    column = member[0].column(member[1])
    return column.base_type if column is not None and column.base_type in _ALIASES.values() else None


def _float_type(constant: Tree) -> str | None:
    """A literal with a point or exponent is numeric; one too long for an integer is bigint or numeric."""
    if constant.WhichOneof("val") != "fval":
        return None
    text = constant.fval.fval
    if len(text) > 25:
        return "numeric"
    return "bigint" if text.lstrip("-").isdecimal() and abs(int(text)) < 1 << 63 else "numeric"


def _operator_type(expression: Tree, scope: Scope) -> str | None:
    if expression.kind != pb.AEXPR_OP or names(expression.name) not in (("+",), ("-",), ("*",), ("/",), ("%",)):
        return None
    right = type_of(expression.rexpr, scope)
    if not expression.HasField("lexpr"):
        return right
    left = type_of(expression.lexpr, scope)
    if left is None or right is None:
        return None
    if left == right:
        return left
    if left in _INTEGERS and right in _INTEGERS:
        return max(left, right, key=_INTEGERS.index)
    if "numeric" in (left, right) and (left in _INTEGERS or right in _INTEGERS):
        return "numeric"
    # Anything with a floating side is computed in double precision, except real with real.
    return "double precision"
