"""What may be evaluated where: refusals for the whole statement, and the proof that an expression is repeatable.

*Repeatable*: it has the same value on every shard at any time during the query, so it may be evaluated per partition.
The proof is a whitelist of node types, functions and literals; whatever is not on it is evaluated once, by gathering.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, names, unwrap, walk, walk_flat
from shardpool.planner.frozen import is_frozen, once
from shardpool.planner.functions import (
    SESSION_FUNCTIONS,
    is_known,
    is_of_groups,
    is_of_server,
    is_repeatable,
    is_set,
)
from shardpool.planner.refusals import refuse
from shardpool.planner.scopes import SYSTEM_COLUMNS, Scope
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Column

#: Inputs of date and time types that mean "when this was read".
_MOVING_DATE = re.compile(r"\b(now|today|tomorrow|yesterday)\b", re.IGNORECASE)

_TRANSPARENT = (
    pb.Node,
    pb.List,
    pb.A_Expr,
    pb.BoolExpr,
    pb.NullTest,
    pb.BooleanTest,
    pb.CaseExpr,
    pb.CaseWhen,
    pb.CoalesceExpr,
    pb.MinMaxExpr,
    pb.A_ArrayExpr,
    pb.A_Indirection,
    pb.A_Indices,
    pb.CollateClause,
    pb.RowExpr,
    pb.ColumnRef,
    pb.ParamRef,
    pb.String,
    pb.Integer,
    pb.Float,
    pb.Boolean,
    pb.BitString,
)


def check_session(statement: Tree, topology: Topology) -> str | None:
    """Refuse functions that change a pooled session; return the first function of unknown effect, if any.

    ``o.f`` may be the function f of the row o: a user's function is unknown in that spelling too.
    """
    unknown = None
    for node in walk(statement):
        match node:
            case pb.FuncCall():
                name = names(node.funcname)[-1]
                if name in SESSION_FUNCTIONS:
                    raise refuse("SP107", name)
                if unknown is None and not _is_builtin(node, topology):
                    unknown = name
            case pb.ColumnRef():
                name = column_fields(node)[-1]
                if unknown is None and name in topology.user_functions and not _is_column(name, topology):
                    unknown = name
    return unknown


def check_query(select: Tree, topology: Topology) -> None:
    """Refuse what means something else on every partition or server."""
    for node in walk(select):
        match node:
            case pb.FuncCall():
                name = names(node.funcname)[-1]
                if is_of_server(name) and name not in topology.user_functions:
                    raise refuse("SP109", name)
            case pb.ColumnRef():
                name = column_fields(node)[-1]
                if name in SYSTEM_COLUMNS:
                    raise refuse("SP105", name)
            case pb.TypeName():
                name = (names(node.names) or ("",))[-1]
                if name in _REG_TYPES:
                    raise refuse("SP108", name)
                if name in topology.sharded_names:
                    raise refuse("SP117", name)


def _is_column(name: str, topology: Topology) -> bool:
    return any(table.column(name) is not None for table in topology.tables.values())


_REG_TYPES = frozenset(
    [
        "regclass",
        "regproc",
        "regprocedure",
        "regoper",
        "regoperator",
        "regtype",
        "regrole",
        "regnamespace",
        "regconfig",
        "regdictionary",
    ]
)


def _is_builtin(call: Tree, topology: Topology) -> bool:
    path = names(call.funcname)
    return is_known(path[-1]) and path[:-1] in ((), ("pg_catalog",)) and path[-1] not in topology.user_functions


def not_repeatable(
    expression: Tree, topology: Topology, scope: Scope | None = None, *, whole: bool = False, sets: bool = False
) -> str | None:
    """Return what in *expression* is not proven repeatable, or None.

    *scope* is where its columns are; without one they are those of the keyspace's tables, under their own names.
    *whole*: aggregates, window functions and subqueries pass, as their rows are looked at elsewhere. *sets*: functions
    that return sets pass. What is inside of subqueries is not looked at.
    """
    inner = unwrap(expression)
    find = _remembered_unrepeatable if is_frozen(inner) else _unrepeatable
    return find(inner, topology, scope, whole, sets)


def _unrepeatable(expression: Tree, topology: Topology, scope: Scope | None, whole: bool, sets: bool) -> str | None:
    for node in walk_flat(expression):
        match node:
            case pb.FuncCall():
                name = names(node.funcname)[-1]
                if name in _TEMPORAL_TYPES and not all(
                    _is_temporal(argument, topology, scope) for argument in node.args
                ):
                    return "a text that is read as a date or time may mean the current one"
                allowed = is_repeatable(name) or (whole and is_of_groups(name)) or (sets and is_set(name))
                if not allowed or not _is_builtin(node, topology) or (node.HasField("over") and not whole):
                    return f"{name}() is evaluated once"
            case pb.SubLink() | pb.WindowDef() | pb.GroupingFunc():
                if not whole:
                    return f"{type(node).__name__} is not evaluated per partition"
            case pb.A_Const():
                if node.WhichOneof("val") == "sval" and _MOVING_DATE.search(node.sval.sval):
                    return f"the literal {node.sval.sval!r} may mean the current time"
            case pb.A_Expr():
                operator = (names(node.name) or ("",))[-1]
                if len(node.name) > 1 or operator in topology.user_functions:
                    return f"the operator {operator} is not PostgreSQL's own"
            case pb.TypeCast():
                if _reads_text_as_time(node, topology, scope):
                    return "a text that is read as a date or time may mean the current one"
            case pb.TypeName() | pb.SortBy():
                pass
            case _:
                if not isinstance(node, _TRANSPARENT):
                    return f"{type(node).__name__} is not evaluated per partition"
    return None


_remembered_unrepeatable = once(_unrepeatable)

_TEMPORAL_TYPES = frozenset(
    [
        "date",
        "time",
        "timetz",
        "timestamp",
        "timestamptz",
        "daterange",
        "datemultirange",
        "tsrange",
        "tsmultirange",
        "tstzrange",
        "tstzmultirange",
    ]
)
#: The same as a server spells them.
_TEMPORAL_COLUMNS = _TEMPORAL_TYPES - {"time", "timetz", "timestamp", "timestamptz"} | {
    f"{kind} {zone} time zone" for kind in ("time", "timestamp") for zone in ("with", "without")
}
#: Functions that give a date or time and read none from text.
_TEMPORAL_FUNCTIONS = frozenset(
    [
        "date_trunc",
        "date_bin",
        "date_add",
        "date_subtract",
        "make_date",
        "make_time",
        "make_timestamp",
        "make_timestamptz",
        "to_timestamp",
        "to_date",
        "timezone",
    ]
)


def _reads_text_as_time(cast: Tree, topology: Topology, scope: Scope | None) -> bool:
    """Whether a cast might turn a computed or stored text like 'now' into a date or time."""
    name = (names(cast.type_name.names) or ("",))[-1]
    return name in _TEMPORAL_TYPES and not _is_temporal(cast.arg, topology, scope)


def _is_temporal(node: Tree, topology: Topology, scope: Scope | None) -> bool:
    """Whether an expression surely is a date or time already, or a literal or parameter, which are checked apart."""
    value = unwrap(node)
    match value:
        case pb.A_Const() | pb.ParamRef():
            return True
        case pb.ColumnRef():
            found = _columns_meant(value, topology, scope)
            return bool(found) and all(column.base_type in _TEMPORAL_COLUMNS for column in found)
        case pb.TypeCast():
            return names(value.type_name.names)[-1] in _TEMPORAL_TYPES and _is_temporal(value.arg, topology, scope)
        case pb.FuncCall():
            return names(value.funcname)[-1] in _TEMPORAL_FUNCTIONS
        case pb.A_Expr():
            sides = [side for side in (value.lexpr, value.rexpr) if not isinstance(unwrap(side), pb.A_Const)]
            return names(value.name) in (("+",), ("-",)) and any(
                not isinstance(unwrap(side), pb.ParamRef) and _is_temporal(side, topology, scope) for side in sides
            )
    return False


def _columns_meant(reference: Tree, topology: Topology, scope: Scope | None) -> list[Column]:
    """The columns of tables that a ColumnRef may mean; none if it is not certain to be one."""
    name = column_fields(reference)[-1]
    if scope is None:
        return [column for table in topology.tables.values() if (column := table.column(name)) is not None]
    member = scope.resolve(reference)
    column = None if member is None else member[0].column(member[1])
    return [] if column is None else [column]


def moving_parameters(parameters: Mapping[str, Any]) -> bool:
    """Whether a parameter's text could mean the current time where it is compared with a date."""
    return any(_moves(value) for value in parameters.values())


def _moves(value: object) -> bool:
    if isinstance(value, str):
        return _MOVING_DATE.search(value) is not None
    return isinstance(value, list | tuple) and any(_moves(element) for element in value)
