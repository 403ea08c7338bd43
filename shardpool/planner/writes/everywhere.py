"""Writes that every shard executes alike: to reference tables, and TRUNCATE.

The copies of a reference table stay equal because each shard changes equal rows by the same words: only expressions
that are the same everywhere may stand there, no subquery and no join. Writers are kept apart by a lock on every copy,
so that no two of them can meet in another order on another shard. What defaults and triggers add is not known here:
every shard also returns the rows it changed, as text, and they must be the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import postgast
from postgast import pg_query_pb2 as pb

from shardpool.errors import UnknownTable
from shardpool.planner.ast import Tree, is_a, kind, unwrap
from shardpool.planner.keyed import KeyedStatement
from shardpool.planner.refusals import refuse
from shardpool.planner.safety import moving_parameters, not_repeatable
from shardpool.planner.statement import Statement
from shardpool.planner.words import Template, on_search_path
from shardpool.planner.writes.steps import Copies, Step, Steps, alias_of, expressions, in_partition, returned, target_of
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table


@dataclass(frozen=True)
class WriteCopies:
    """The user's words, for all shards."""

    words: str
    lock: str
    #: Whether the words return rows, and whether the last column is each row's text.
    returns: bool
    checked: bool

    def bind(self, parameters: Mapping[str, Any], topology: Topology) -> Steps:
        if moving_parameters(parameters):
            raise refuse("SP133", "a parameter may mean the current time")
        path = f"SET LOCAL search_path TO {quote(topology.keyspace)}, public;"
        steps = (Step(shard, path + self.words) for shard in sorted(topology.shard_map.shards))
        return Steps(tuple(steps), Copies(self.lock, self.returns, self.checked))


def compile_reference(statement: Statement, topology: Topology) -> WriteCopies:
    node = unwrap(statement.node)
    name = kind(statement.node)
    if (
        node.HasField("with_clause")
        or (node.from_clause if name == "update_stmt" else ())
        or (node.using_clause if name == "delete_stmt" else ())
    ):
        raise refuse("SP136", node.relation.relname)
    for part in _parts(name, node):
        reason = None if is_a(part, "set_to_default") or is_a(part, "column_ref") else not_repeatable(part, topology)
        if reason is not None:
            raise refuse("SP136" if "sub_link" in kind(part) or "SubLink" in reason else "SP133", reason)
    returns = bool(node.returning_clause.exprs)
    end = next((it.start for it in postgast.scan(statement.numbered).tokens[::-1] if it.token == pb.ASCII_59), None)
    end = len(statement.numbered.encode()) if end is None else end
    row = f"(ROW({quote(alias_of(node))}.*))::text"
    check = (end, end, f"\n{',' if returns else 'RETURNING'} {row} ".replace("%", "%%"))
    words = "".join(on_search_path(statement, topology, [check]))
    return WriteCopies(words, _lock([target_of(statement, topology)], topology), returns, True)


def _parts(name: str, node: Tree) -> list[Tree]:
    parts = returned(node)
    if name == "insert_stmt":
        select = node.select_stmt.select_stmt
        if not select.values_lists:
            raise refuse("SP136", node.relation.relname)
        parts += [item for row in select.values_lists for item in row.list.items]
        parts += expressions(node.on_conflict_clause.target_list)
        if node.on_conflict_clause.HasField("where_clause"):
            parts.append(node.on_conflict_clause.where_clause)
        return parts
    if name == "update_stmt":
        parts += expressions(node.target_list)
    if node.HasField("where_clause"):
        parts.append(node.where_clause)
    return parts


def _lock(tables: list[Table], topology: Topology) -> str:
    listed = ", ".join(f"{quote(topology.keyspace)}.{quote(table.name)}" for table in tables)
    return f"LOCK TABLE {listed} IN SHARE ROW EXCLUSIVE MODE"


@dataclass(frozen=True)
class TruncatePartitions:
    """TRUNCATE of sharded tables, in every partition."""

    template: Template

    def bind(self, parameters: Mapping[str, Any], topology: Topology) -> Steps:
        keyed = KeyedStatement(self.template, True, (), (), True)
        placements = sorted(topology.shard_map.placements, key=lambda it: (it.shard, it.partition.id))
        return Steps(tuple(Step(it.shard, in_partition(keyed, it.partition, topology), it) for it in placements))


def compile_truncate(statement: Statement, topology: Topology) -> WriteCopies | TruncatePartitions:
    tables = []
    for node in statement.node.truncate_stmt.relations:
        table = topology.tables.get(node.range_var.relname)
        if table is None or node.range_var.schemaname not in ("", topology.keyspace):
            raise UnknownTable(node.range_var.relname, topology.keyspace, list(topology.tables))
        tables.append(table)
    names = {table.name for table in tables}
    for table in topology.tables.values():
        together = {table.name, *(name for _, name in table.unique)}
        if table.unique and together & names and not together <= names:
            raise refuse("SP139", f"TRUNCATE of {', '.join(sorted(together & names))} alone")
    template = on_search_path(statement, topology)
    if all(table.sharded for table in tables):
        return TruncatePartitions(template)
    if any(table.sharded for table in tables):
        raise refuse("SP132", "it names sharded and reference tables")
    return WriteCopies("".join(template), _lock(tables, topology), False, False)
