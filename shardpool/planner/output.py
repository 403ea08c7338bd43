"""Names of output columns, as PostgreSQL's `FigureColname` (parse_target.c) gives them."""

from __future__ import annotations

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, names, unwrap

UNNAMED = "?column?"
_VALUE_FUNCTIONS = {
    pb.SVFOP_CURRENT_DATE: "current_date",
    pb.SVFOP_CURRENT_TIME: "current_time",
    pb.SVFOP_CURRENT_TIME_N: "current_time",
    pb.SVFOP_CURRENT_TIMESTAMP: "current_timestamp",
    pb.SVFOP_CURRENT_TIMESTAMP_N: "current_timestamp",
    pb.SVFOP_LOCALTIME: "localtime",
    pb.SVFOP_LOCALTIME_N: "localtime",
    pb.SVFOP_LOCALTIMESTAMP: "localtimestamp",
    pb.SVFOP_LOCALTIMESTAMP_N: "localtimestamp",
    pb.SVFOP_CURRENT_ROLE: "current_role",
    pb.SVFOP_CURRENT_USER: "current_user",
    pb.SVFOP_USER: "user",
    pb.SVFOP_SESSION_USER: "session_user",
    pb.SVFOP_CURRENT_CATALOG: "current_catalog",
    pb.SVFOP_CURRENT_SCHEMA: "current_schema",
}


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
        case pb.SubLink():
            return _of_subquery(value)
        case pb.GroupingFunc():
            return "grouping", 2
        case pb.SQLValueFunction():
            return _VALUE_FUNCTIONS[value.op], 2
        case pb.A_Const() | pb.BoolExpr() | pb.NullTest() | pb.BooleanTest():
            return UNNAMED, 0
        case _:
            # Among them parameters: psycopg2 writes some as casts, which have names.
            return None


def _of_subquery(link: Tree) -> tuple[str, int] | None:
    if link.sub_link_type == pb.EXISTS_SUBLINK:
        return "exists", 2
    if link.sub_link_type == pb.ARRAY_SUBLINK:
        return "array", 2
    if link.sub_link_type != pb.EXPR_SUBLINK:
        return UNNAMED, 0
    select = link.subselect.select_stmt
    while select.op != pb.SETOP_NONE:
        select = select.larg
    if len(select.target_list) != 1:
        return None
    name = output_name(select.target_list[0].res_target)
    return None if name is None else (name, 2)
