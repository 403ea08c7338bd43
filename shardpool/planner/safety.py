"""What may be evaluated where: refusals for the whole statement, and the proof that an expression is repeatable.

*Repeatable*: it has the same value on every shard at any time during the query, so it may be evaluated per partition.
The proof is a whitelist of node types, functions and literals; whatever is not on it is evaluated once, by gathering.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, names, walk
from shardpool.planner.functions import SESSION_FUNCTIONS, is_aggregate, is_known, is_repeatable
from shardpool.planner.refusals import refuse
from shardpool.planner.scopes import SYSTEM_COLUMNS
from shardpool.topology.shard_map import Topology

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
    pb.RowExpr,
    pb.CollateClause,
    pb.ColumnRef,
    pb.ParamRef,
    pb.String,
    pb.Integer,
    pb.Float,
    pb.Boolean,
    pb.BitString,
)


def check(select: Tree, topology: Topology) -> str | None:
    """Refuse what no rung can answer; return the first function of unknown effect, if any."""
    unknown = None
    for node in walk(select):
        match node:
            case pb.FuncCall():
                name = names(node.funcname)[-1]
                if name in SESSION_FUNCTIONS:
                    raise refuse("SP107", name)
                if unknown is None and not _is_builtin(node, topology):
                    unknown = name
            case pb.ColumnRef():
                name = column_fields(node)[-1]
                if name in SYSTEM_COLUMNS:
                    raise refuse("SP105", name)
            case pb.TypeName():
                name = (names(node.names) or ("",))[-1]
                if name.startswith("reg") and name in _REG_TYPES:
                    raise refuse("SP108", name)
    return unknown


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


def not_repeatable(expression: Tree, topology: Topology, aggregates: bool = False) -> str | None:
    """Return what in *expression* is not proven repeatable, or None. Aggregate calls pass if *aggregates* is true."""
    for node in walk(expression):
        match node:
            case pb.FuncCall():
                name = names(node.funcname)[-1]
                allowed = is_repeatable(name) or (aggregates and is_aggregate(name))
                if not allowed or not _is_builtin(node, topology) or node.HasField("over"):
                    return f"{name}() is evaluated once"
            case pb.A_Const():
                if node.WhichOneof("val") == "sval" and _MOVING_DATE.search(node.sval.sval):
                    return f"the literal {node.sval.sval!r} may mean the current time"
            case pb.A_Expr():
                operator = (names(node.name) or ("",))[-1]
                if len(node.name) > 1 or operator in topology.user_functions:
                    return f"the operator {operator} is not PostgreSQL's own"
            case pb.TypeCast() | pb.TypeName() | pb.SortBy():
                pass
            case _:
                if not isinstance(node, _TRANSPARENT):
                    return f"{type(node).__name__} is not evaluated per partition"
    return None


def moving_parameters(parameters: Mapping[str, Any]) -> bool:
    """Whether a parameter's text could mean the current time where it is compared with a date."""
    return any(isinstance(value, str) and _MOVING_DATE.search(value) for value in parameters.values())
