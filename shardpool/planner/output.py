"""Names of output columns, as PostgreSQL's `FigureColname` (parse_target.c) gives them."""

from __future__ import annotations

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, names, unwrap

UNNAMED = "?column?"


def output_name(target: Tree) -> str | None:
    """Return the name of a ResTarget's column; None where this module does not know the rule (or it is a star)."""
    if target.name:
        return str(target.name)
    found = _figure(target.val)
    return None if found is None else found[0]


def _figure(node: Tree) -> tuple[str, int] | None:
    """Return (name, strength): 0 no idea, 1 from a type or keyword, 2 from a column or function."""
    value = unwrap(node)
    match value:
        case pb.ColumnRef():
            name = column_fields(value)[-1]
            return None if name == "*" else (name, 2)
        case pb.FuncCall():
            return names(value.funcname)[-1], 2
        case pb.TypeCast():
            inner = _figure(value.arg)
            if inner is None or inner[1] == 2:
                return inner
            return names(value.type_name.names)[-1], 1
        case pb.CollateClause():
            return _figure(value.arg)
        case pb.CaseExpr():
            inner = _figure(value.defresult) if value.HasField("defresult") else (UNNAMED, 0)
            return inner if inner is None or inner[1] == 2 else ("case", 1)
        case pb.CoalesceExpr():
            return "coalesce", 2
        case pb.MinMaxExpr():
            return ("greatest" if value.op == pb.IS_GREATEST else "least"), 2
        case pb.A_ArrayExpr():
            return "array", 2
        case pb.A_Expr():
            return ("nullif", 2) if value.kind == pb.AEXPR_NULLIF else (UNNAMED, 0)
        case pb.A_Const() | pb.BoolExpr() | pb.NullTest() | pb.BooleanTest():
            return UNNAMED, 0
        case _:
            # Among them parameters: psycopg2 writes some as casts, which have names.
            return None
