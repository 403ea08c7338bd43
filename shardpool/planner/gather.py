"""The rung *gather*, the floor of the ladder: the rows that a statement may need, under the tables' own names.

For each sharded table: the columns whose names occur in the statement (all of them where a star, a whole row or an
unknown function may need more), and of the rows those that pass, for some occurrence of the table, its own conditions.
Every occurrence finds a superset of its rows and checks its conditions again, so that nothing is lost or added.
"""

from __future__ import annotations

from dataclasses import dataclass

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, UnfaithfulText, column_fields, names, to_sql, walk
from shardpool.planner.plan import SCHEMA_MARKER
from shardpool.planner.rewrite import column, rewritten, target
from shardpool.planner.safety import not_repeatable
from shardpool.planner.scopes import Analysis, Fact, Item
from shardpool.planner.statement import Statement, to_pyformat
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Column, Table


@dataclass(frozen=True)
class Source:
    """A table to gather: its texts with and without conditions, and its occurrences' places in the analysis."""

    table: Table
    columns: tuple[Column, ...]
    filtered: str
    unfiltered: str
    occurrences: tuple[int, ...]


def plan_sources(
    analysis: Analysis, statement: Statement, topology: Topology, unknown_function: str | None
) -> tuple[Source, ...]:
    """Return what to gather, one entry per sharded table of the statement."""
    needed = None if unknown_function else _mentioned(statement, analysis)
    occurrences: dict[str, list[int]] = {}
    for index, item in enumerate(analysis.occurrences):
        if item.table is not None and item.table.sharded:
            occurrences.setdefault(item.table.name, []).append(index)
    sources = []
    for name, places in sorted(occurrences.items()):
        table = topology.tables[name]
        items = [analysis.occurrences[place] for place in places]
        renamed = any(item.node.alias.colnames for item in items)
        columns = tuple(c for c in table.columns if needed is None or renamed or c.name in needed)
        columns = columns or table.columns[:1]
        condition = None if unknown_function else _condition(items, topology)
        unfiltered = _select(table, columns, None, statement)
        filtered = unfiltered if condition is None else _select(table, columns, condition, statement)
        sources.append(Source(table, columns, filtered, unfiltered, tuple(places)))
    return tuple(sources)


def _mentioned(statement: Statement, analysis: Analysis) -> frozenset[str] | None:
    """Every name that a column reference ends in; None where whole rows may be meant."""
    aliases = {item.alias for item in analysis.occurrences}
    found: set[str] = set()
    for node in walk(statement.node):
        match node:
            case pb.ColumnRef():
                parts = column_fields(node)
                if parts[-1] in aliases or "*" in parts or not _is_plain_column(parts, analysis):
                    return None
                found.add(parts[-1])
            case pb.JoinExpr():
                if node.is_natural or node.HasField("alias") or node.HasField("join_using_alias"):
                    return None
                found.update(names(node.using_clause))
    return frozenset(found)


def _is_plain_column(parts: tuple[str, ...], analysis: Analysis) -> bool:
    """Whether ``o.x`` is column x of o; it may also be the function x of the row o."""
    if len(parts) == 1:
        return True
    meant = [item for scope in analysis.scopes for item in scope.items if item.alias == parts[-2]]
    return all(item.columns is not None and parts[-1] in item.columns for item in meant)


def _condition(items: list[Item], topology: Topology) -> Tree | None:
    """The OR, over the occurrences, of each one's own conditions; None if one occurrence has none."""
    choices = []
    for item in items:
        facts = [fact for fact in item.scope.facts if _filters(fact, item, topology)]
        if not facts or item.sampled:
            return None
        choices.append(_joined(pb.AND_EXPR, [_bare(fact.condition) for fact in facts]))
    return _joined(pb.OR_EXPR, choices)


def _filters(fact: Fact, item: Item, topology: Topology) -> bool:
    """Whether rows of *item* that fail the condition can be left out beforehand."""
    if fact.condition is None or not fact.holds_for(item) or not item.outer <= fact.outer:
        return False
    if not_repeatable(fact.condition, topology) is not None:
        return False
    references = [node for node in walk(fact.condition) if isinstance(node, pb.ColumnRef)]
    members = [item.scope.resolve(reference, fact.visible) for reference in references]
    return bool(members) and all(
        member is not None and member[0] is item and item.column(member[1]) is not None and _named_so(item, member[1])
        for member in members
    )


def _named_so(item: Item, name: str) -> bool:
    column = item.column(name)
    return column is not None and column.name == name


def _bare(condition: Tree) -> Tree:
    def replace(node: Tree) -> Tree | None:
        return column(column_fields(node.column_ref)[-1]) if node.WhichOneof("node") == "column_ref" else None

    return rewritten(condition, replace)


def _joined(operator: int, parts: list[Tree]) -> Tree:
    return parts[0] if len(parts) == 1 else pb.Node(bool_expr=pb.BoolExpr(boolop=operator, args=parts))


def _select(table: Table, columns: tuple[Column, ...], condition: Tree | None, statement: Statement) -> str:
    select = pb.SelectStmt(limit_option=pb.LIMIT_OPTION_DEFAULT, op=pb.SETOP_NONE)
    select.target_list.extend(target(column(c.name)) for c in columns)
    source = pb.RangeVar(schemaname=SCHEMA_MARKER, relname=table.name, inh=True, relpersistence="p")
    select.from_clause.append(pb.Node(range_var=source))
    if condition is not None:
        select.where_clause.CopyFrom(condition)
    try:
        return to_pyformat(to_sql(select), statement)
    except UnfaithfulText:
        if condition is None:
            raise
        return _select(table, columns, None, statement)
