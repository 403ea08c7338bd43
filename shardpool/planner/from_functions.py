"""Functions in FROM: the columns that they are sure to give."""

from __future__ import annotations

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, is_a, names, unwrap
from shardpool.planner.scopes import Columns, Scope

#: Functions whose only column is called as the item is.
_ONE_COLUMN = frozenset(
    ["generate_series", "generate_subscripts", "regexp_split_to_table", "string_to_table", "unnest"]
)
#: Types whose arrays give one column by unnest(): those of composite types give one for each of theirs.
_PLAIN = frozenset(
    ["bigint", "boolean", "bytea", "character", "character varying", "date", "double precision", "integer", "interval"]
    + ["json", "jsonb", "numeric", "real", "smallint", "text", "uuid", "bool", "bpchar", "float4", "float8", "int2"]
    + ["int4", "int8", "time", "timestamp", "timestamptz", "varchar"]
    + [f"{kind} {zone} time zone" for kind in ("time", "timestamp") for zone in ("with", "without")]
)
_GIVE_TEXTS = frozenset(["string_to_array", "regexp_split_to_array"])


def function_columns(node: Tree, scope: Scope) -> Columns:
    """Return the columns of a function in FROM, a RangeFunction, where they are certain."""
    if (
        not isinstance(node, pb.RangeFunction)
        or len(node.functions) != 1
        or node.coldeflist
        or not node.alias.aliasname
    ):
        return None
    call = node.functions[0].list.items[0]
    if not is_a(call, "func_call") or len(call.func_call.args) > 3:
        return None
    function, arguments = names(call.func_call.funcname)[-1], call.func_call.args
    if function not in _ONE_COLUMN:
        return None
    if function == "unnest" and not (len(arguments) == 1 and _is_plain_array(arguments[0], scope)):
        return None
    return renamed((str(node.alias.aliasname), *(("ordinality",) if node.ordinality else ())), node.alias)


def _is_plain_array(node: Tree, scope: Scope) -> bool:
    """Whether an expression surely is an array of something else than rows."""
    value = unwrap(node)
    match value:
        case pb.ColumnRef():
            member = scope.resolve(value)
            column = member[0].column(member[1]) if member is not None else None
            return column is not None and column.base_type.removesuffix("[]") in _PLAIN
        case pb.TypeCast():
            return bool(value.type_name.array_bounds) and names(value.type_name.names)[-1] in _PLAIN
        case pb.A_ArrayExpr():
            return all(isinstance(unwrap(element), pb.A_Const | pb.ParamRef) for element in value.elements)
        case pb.FuncCall():
            return names(value.funcname)[-1] in _GIVE_TEXTS
    return isinstance(value, pb.ParamRef)


def renamed(columns: Columns, alias: Tree) -> Columns:
    """Return columns as an Alias calls them."""
    given = names(alias.colnames)
    if not given:
        return columns
    if columns is None:
        return None
    return given + columns[len(given) :]
