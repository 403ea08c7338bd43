"""A write in WITH whose rows the statement only computes with: the write is carried out, then its rows are read.

All parts of such a statement see the tables as they were before it. So it may be done in this order if nothing but the
write itself reads a table, which is the case where everything else reads what the write returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, UnfaithfulText, is_a, statement_sql, unwrap, walk
from shardpool.planner.moment import at_one_moment
from shardpool.planner.refusals import refuse
from shardpool.planner.rewrite import copied, expression
from shardpool.planner.safety import moving_parameters
from shardpool.planner.statement import Statement
from shardpool.planner.writes.staged import ROWS, derived, generated, row_parameters, shared_path, typed_rows
from shardpool.planner.writes.steps import CompiledWrite, Found, returned
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology

_ITEM = f"{ROWS}_item"
_WRITES = ("insert_stmt", "update_stmt", "delete_stmt", "merge_stmt")


@dataclass(frozen=True)
class Apart:
    """`inner` is the write; `words` read its rows, with `_ITEM` in their place."""

    inner: CompiledWrite
    words: str

    def reading(
        self, columns: tuple[str, ...], found: Found, parameters: Mapping[str, Any]
    ) -> tuple[str, Mapping[str, Any]]:
        """Return the statement for any shard, and its parameters. Raise `UnsupportedStatement`."""
        if moving_parameters(parameters):
            raise refuse("SP133", "a parameter may mean the current time")
        if "" in found.types:
            raise refuse("SP132", f"{columns[found.types.index('')]}, which the write returns, is of a type of yours")
        sql = self.words.replace(_ITEM, typed_rows(columns, found.types))
        return sql, row_parameters(len(columns), found.rows, parameters)


def split(statement: Statement, topology: Topology) -> tuple[Statement, str]:
    """Return the one write in the WITH of a SELECT, and the words that read its rows. Raise `UnsupportedStatement`."""
    if not is_a(statement.node, "select_stmt"):
        raise refuse("SP102", "not only what the writes return is read")
    select = copied(statement.node.select_stmt)
    if select.with_clause.recursive:
        raise refuse("SP102", "WITH RECURSIVE")
    ctes = [node.common_table_expr for node in select.with_clause.ctes]
    writes = [it for it in ctes if it.ctequery.WhichOneof("node") in _WRITES]
    if len(writes) != 1:
        raise refuse("SP102", "there is more than one write")
    (cte,) = writes
    write = copied(cte.ctequery)
    _check_plain(unwrap(write), {it.ctename for it in ctes if it is not cte}, topology)
    columns = [target.res_target for target in unwrap(write).returning_clause.exprs]
    readable = {it.ctename for it in ctes if it is not cte or columns}
    rows = expression(f"(SELECT * FROM {_ITEM})").sub_link.subselect
    # One that returns nothing cannot be read.
    cte.ctequery.CopyFrom(rows if columns else expression("(SELECT 1)").sub_link.subselect)
    _check_reads(select, readable, statement, topology)
    try:
        inner = derived(statement_sql(write), statement)
    except UnfaithfulText:
        raise refuse("SP132", "the generated text could not be proven faithful") from None
    return inner, shared_path(topology) + generated(select, statement, topology)


def _check_plain(write: Tree, others: set[str], topology: Topology) -> None:
    """Raise if the write reads *others* of its WITH, or returns what rows cannot take along: their own collation."""
    if write.HasField("with_clause"):
        raise refuse("SP102", "WITH inside of WITH")
    returned(write)
    for node in walk(write):
        table = topology.tables.get(node.relname) if isinstance(node, pb.RangeVar) else None
        if isinstance(node, pb.RangeVar) and not node.schemaname and node.relname in others and node != write.relation:
            raise refuse("SP102", f"the write reads {quote(node.relname)} of its WITH")
        if isinstance(node, pb.CollateClause) or any(it.collation for it in (table.columns if table else ())):
            raise refuse("SP102", "what the write returns may have a collation of its own")


def _check_reads(select: Tree, readable: set[str], statement: Statement, topology: Topology) -> None:
    if sum(isinstance(node, pb.WithClause) for node in walk(select)) > 1:
        raise refuse("SP102", "WITH inside of WITH")
    for node in walk(select):
        if isinstance(node, pb.RangeVar) and (node.schemaname or node.relname not in {*readable, _ITEM}):
            raise refuse("SP102", f"it reads {quote(node.relname)} besides, which may be as it was before the write")
    rest = statement.lightened(pb.Node(select_stmt=select))
    if at_one_moment(rest, topology) is not rest or moving_parameters({"": statement.numbered}):
        raise refuse("SP133", "it asks for the time")
