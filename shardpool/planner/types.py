"""Types of simple expressions: just enough to combine partial sums and averages. None: not known.

Only for expressions that are proven repeatable: a function is then PostgreSQL's own, whatever its name.
"""

from __future__ import annotations

from collections.abc import Iterable

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, is_a, is_star, names, unwrap
from shardpool.planner.scopes import Analysis, Item, Scope

#: The numeric types; each is cast without being asked to any that comes after it.
_CHAIN = ("smallint", "integer", "bigint", "numeric", "real", "double precision")
_INTEGERS = _CHAIN[:3]
_ALIASES = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "numeric": "numeric",
    "float4": "real",
    "float8": "double precision",
}
#: The type of sum() for an argument of a type.
SUM_TYPE = {
    "smallint": "bigint",
    "integer": "bigint",
    "bigint": "numeric",
    "numeric": "numeric",
    "real": "real",
    "double precision": "double precision",
}
_OF_FUNCTIONS = dict.fromkeys(["length", "char_length", "character_length", "octet_length", "strpos"], "integer") | {
    "count": "bigint",
    "extract": "numeric",
    "date_part": "double precision",
}
_AS_ARGUMENT = frozenset({"abs", "min", "max"})
_ROUNDING = frozenset({"round", "trunc", "ceil", "ceiling", "floor"})


def type_of(node: Tree, scope: Scope, analysis: Analysis) -> str | None:
    """Return smallint, integer, bigint, numeric, real or double precision for a numeric expression."""
    value = unwrap(node)
    match value:
        case pb.ColumnRef():
            member = scope.resolve(value)
            return None if member is None else _column_type(*member, analysis)
        case pb.A_Const():
            return {"ival": "integer"}.get(value.WhichOneof("val") or "") or _float_type(value)
        case pb.TypeCast():
            if value.type_name.array_bounds:
                return None
            return _ALIASES.get(names(value.type_name.names)[-1])
        case pb.A_Expr():
            return _operator_type(value, scope, analysis)
        case pb.FuncCall():
            return _function_type(value, scope, analysis)
        case pb.CaseExpr():
            results = [when.case_when.result for when in value.args]
            return _common([*results, value.defresult] if value.HasField("defresult") else results, scope, analysis)
        case pb.CoalesceExpr() | pb.MinMaxExpr():
            return _common(value.args, scope, analysis)
    return None


def _column_type(item: Item, name: str, analysis: Analysis) -> str | None:
    column = item.column(name)
    if column is not None:
        return column.base_type if column.base_type in _CHAIN else None
    if item.query is None or item.query.op != pb.SETOP_NONE or item.columns is None:
        return None
    inner = analysis.scope_of(item.query)
    targets = inner.select.target_list
    if len(targets) != len(item.columns) or any(is_star(target.res_target.val) for target in targets):
        return None
    return type_of(targets[item.columns.index(name)].res_target.val, inner, analysis)


def _common(nodes: Iterable[Tree], scope: Scope, analysis: Analysis) -> str | None:
    """The type to which the values of CASE and its kin are cast; NULL has any."""
    types = [type_of(node, scope, analysis) for node in nodes if not (is_a(node, "a_const") and node.a_const.isnull)]
    found = [kind for kind in types if kind is not None]
    return max(found, key=_CHAIN.index) if found and len(found) == len(types) else None


def _float_type(constant: Tree) -> str | None:
    """A literal with a point or exponent is numeric; one too long for an integer is bigint or numeric."""
    if constant.WhichOneof("val") != "fval":
        return None
    text = constant.fval.fval
    if len(text) > 25:
        return "numeric"
    return "bigint" if text.lstrip("-").isdecimal() and abs(int(text)) < 1 << 63 else "numeric"


def _operator_type(expression: Tree, scope: Scope, analysis: Analysis) -> str | None:
    if expression.kind != pb.AEXPR_OP or names(expression.name) not in (("+",), ("-",), ("*",), ("/",), ("%",)):
        return None
    right = type_of(expression.rexpr, scope, analysis)
    if not expression.HasField("lexpr"):
        return right
    left = type_of(expression.lexpr, scope, analysis)
    if left is None or right is None:
        return None
    if left == right:
        return left
    if left in _INTEGERS and right in _INTEGERS:
        return max(left, right, key=_CHAIN.index)
    if "numeric" in (left, right) and (left in _INTEGERS or right in _INTEGERS):
        return "numeric"
    # Anything with a floating side is computed in double precision, except real with real.
    return "double precision"


def _function_type(call: Tree, scope: Scope, analysis: Analysis) -> str | None:
    name = names(call.funcname)[-1]
    if name in _OF_FUNCTIONS:
        return _OF_FUNCTIONS[name]
    kind = type_of(call.args[0], scope, analysis) if call.args else None
    if kind is None:
        return None
    if name in _AS_ARGUMENT:
        return kind
    if name == "sum":
        return SUM_TYPE[kind]
    if name == "avg":
        return "double precision" if kind in ("real", "double precision") else "numeric"
    if name in _ROUNDING:
        # Of numeric and double precision, into which an integer could be cast, PostgreSQL prefers the latter.
        return "numeric" if kind == "numeric" or len(call.args) == 2 else "double precision"
    return None
