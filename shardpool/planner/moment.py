"""The current time, once per query: what is evaluated per partition gets it as a parameter.

``now()`` and its kin mean the start of the transaction, which every shard has at another time. In a copy of the
statement they are replaced by the parameter `MOMENT`; the executor asks the merge node for it.
"""

from __future__ import annotations

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, is_a, names, unwrap, walk
from shardpool.planner.output import output_name
from shardpool.planner.rewrite import copied, expression, rewritten
from shardpool.planner.statement import Statement
from shardpool.topology.shard_map import Topology

#: The name of the parameter: the current time as text, with its zone.
MOMENT = "shardpool_now"

_FUNCTIONS = frozenset({"now", "transaction_timestamp", "statement_timestamp"})
_TEMPLATES = {
    pb.SVFOP_CURRENT_TIMESTAMP: "CAST(a AS timestamptz)",
    pb.SVFOP_CURRENT_TIMESTAMP_N: "CAST(a AS timestamptz(1))",
    pb.SVFOP_LOCALTIMESTAMP: "CAST(CAST(a AS timestamptz) AS timestamp)",
    pb.SVFOP_CURRENT_DATE: "CAST(CAST(a AS timestamptz) AS date)",
}


def at_one_moment(statement: Statement, topology: Topology) -> Statement:
    """Return the statement with the current time as a parameter; itself if it does not ask for the time."""
    if not any(_template(node, topology) for node in walk(statement.node)) or MOMENT in statement.names:
        return statement
    number = len(statement.names) + 1

    def replace(node: Tree) -> Tree | None:
        if is_a(node, "res_target") and not node.res_target.name:
            value = rewritten(node.res_target.val, replace)
            if value != node.res_target.val:
                copy = copied(node)
                copy.res_target.val.CopyFrom(value)
                copy.res_target.name = output_name(node.res_target) or ""
                return copy
            return None
        template = _template(unwrap(node), topology) if isinstance(node, pb.Node) else None
        return None if template is None else _moment(template, number, unwrap(node))

    return statement.changed(rewritten(statement.node, replace), MOMENT)


def _template(node: Tree, topology: Topology) -> str | None:
    match node:
        case pb.FuncCall():
            path = names(node.funcname)
            plain = path[:-1] in ((), ("pg_catalog",)) and not node.args and path[-1] not in topology.user_functions
            return _TEMPLATES[pb.SVFOP_CURRENT_TIMESTAMP] if plain and path[-1] in _FUNCTIONS else None
        case pb.SQLValueFunction():
            return _TEMPLATES.get(node.op)
    return None


def _moment(template: str, number: int, node: Tree) -> Tree:
    def replace(inner: Tree) -> Tree | None:
        if is_a(inner, "column_ref"):
            return pb.Node(param_ref=pb.ParamRef(number=number))
        return None

    found = rewritten(expression(template), replace)
    if isinstance(node, pb.SQLValueFunction) and node.op == pb.SVFOP_CURRENT_TIMESTAMP_N:
        found.type_cast.type_name.typmods[0].a_const.ival.ival = node.typmod
    return found
