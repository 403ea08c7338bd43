"""Writes that may be prepared in a session: with parameters they mean what they mean with literals, and plan no worse.

psycopg2 writes values into the text, where PostgreSQL gives a whole number of 32 bits the type integer. A parameter of
that type has the same operators and casts, wherever the grammar does not ask for a constant; and rows that are found by
their whole primary key are found in one way, whatever its values are. Nothing else is prepared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, is_a, names, unwrap, walk
from shardpool.planner.statement import Statement
from shardpool.topology.shard_map import Topology

_SMALL = 1 << 31


@dataclass(frozen=True)
class OftenUsed:
    """A write to be prepared: its text, the types of its parameters, their names, and how psycopg2 is given them."""

    text: str
    types: str
    names: tuple[str, ...]
    values: str

    def call(self, name: str | None) -> str | None:
        """Return the statement that executes it, prepared as *name*."""
        return None if name is None else f"EXECUTE {name} ({self.values})"

    def takes(self, parameters: Mapping[str, Any]) -> bool:
        """Whether all its parameters are whole numbers of 32 bits, none of them missing."""
        for name in self.names:
            value = parameters.get(name)
            if type(value) is not int or not -_SMALL <= value < _SMALL:
                return False
        return True


def often_used(statement: Statement, topology: Topology) -> OftenUsed | None:
    """Return a statement as one to be prepared: an INSERT of a row of VALUES, or an UPDATE or DELETE of the row with a
    primary key, of one sharded table, that returns nothing. None for all others."""
    node = unwrap(statement.node)
    if not statement.names or not _is_simple(node) or not _is_sharded(node.relation, topology):
        return None
    if isinstance(node, pb.InsertStmt):
        places = _inserted(node)
    else:
        found = _found(node, topology)
        places = [*found, *_assigned(node.target_list if isinstance(node, pb.UpdateStmt) else ())] if found else []
    below = list(walk(statement.node))
    # Of texts some mean the moment at which they are read, like 'now'; subqueries may need other plans later.
    if any(isinstance(it, pb.SubLink) or (isinstance(it, pb.A_Const) and it.HasField("sval")) for it in below):
        return None
    if len(places) != sum(isinstance(it, pb.ParamRef) for it in below):
        return None
    return OftenUsed(
        statement.numbered,
        ", ".join(["integer"] * len(statement.names)),
        statement.names,
        ", ".join(f"%({name})s" for name in statement.names),
    )


def _is_simple(node: Tree) -> bool:
    """Whether it is a write of one table that reads no other, and has no WITH, RETURNING or ON CONFLICT."""
    if not isinstance(node, pb.InsertStmt | pb.UpdateStmt | pb.DeleteStmt):
        return False
    if node.HasField("with_clause") or node.HasField("returning_clause"):
        return False
    if isinstance(node, pb.InsertStmt):
        return not node.HasField("on_conflict_clause") and is_a(node.select_stmt, "select_stmt")
    return not (node.from_clause if isinstance(node, pb.UpdateStmt) else node.using_clause)


def _is_sharded(relation: Tree, topology: Topology) -> bool:
    table = topology.tables.get(relation.relname)
    return table is not None and table.sharded and not relation.schemaname


# Each of these returns the parameters that stand where one of type integer does what a literal does.


def _inserted(insert: Tree) -> list[Tree]:
    rows = insert.select_stmt.select_stmt.values_lists
    return [it for it in rows[0].list.items if is_a(it, "param_ref")] if len(rows) == 1 else []


def _assigned(targets: Iterable[Tree]) -> list[Tree]:
    """``a = :p``, ``a = a + :p``, ``a = a - :p``."""
    found = []
    for target in targets:
        value = target.res_target.val
        if is_a(value, "a_expr") and _operator(value.a_expr) in ("+", "-") and is_a(value.a_expr.lexpr, "column_ref"):
            value = value.a_expr.rexpr
        if is_a(value, "param_ref"):
            found.append(value)
    return found


def _found(node: Tree, topology: Topology) -> list[Tree]:
    """``a = :p AND b = :q``, of all columns of the primary key; none for other conditions."""
    condition = node.where_clause
    conjunction = is_a(condition, "bool_expr") and condition.bool_expr.boolop == pb.AND_EXPR
    terms = condition.bool_expr.args if conjunction else [condition]
    found = {}
    for term in terms:
        if is_a(term, "a_expr") and _operator(term.a_expr) == "=" and is_a(term.a_expr.lexpr, "column_ref"):
            found[column_fields(term.a_expr.lexpr.column_ref)[-1]] = term.a_expr.rexpr
    key = topology.tables[node.relation.relname].primary_key
    pinned = [found[column] for column in key if column in found and is_a(found[column], "param_ref")]
    return pinned if len(terms) == len(pinned) == len(key) else []


def _operator(expression: Tree) -> str:
    written = names(expression.name)
    return written[0] if expression.kind == pb.AEXPR_OP and len(written) == 1 else ""
