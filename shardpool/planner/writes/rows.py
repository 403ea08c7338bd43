"""INSERT .. VALUES: every row goes to the partition of its key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import postgast
from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, is_a, kind, names, unwrap, walk
from shardpool.planner.keyed import WrittenKey, compile_keyed, inserted_keys, updated_keys
from shardpool.planner.refusals import refuse
from shardpool.planner.rewrite import copied, expression, rewritten
from shardpool.planner.safety import moving_parameters, not_repeatable
from shardpool.planner.statement import Statement
from shardpool.planner.words import on_search_path
from shardpool.planner.writes.steps import Step, Steps, check_assigned, expressions, owner_of, returned, target_of
from shardpool.topology.shard_map import Topology

#: Functions that give each row a value of its own, in PostgreSQL as well.
PER_ROW = frozenset({"random", "gen_random_uuid", "uuidv4", "uuidv7", "clock_timestamp"})

#: Stand for the partition's schema, and at the ends of rows, while the text is cut; no statement has them.
_CUT = "\0schema\0"
_ROW = "\0row\0"
_CONSTANTS = ("a_const", "param_ref")


def has_rows(statement: Statement) -> bool:
    """Whether an INSERT has VALUES of its own, or DEFAULT VALUES."""
    select = statement.node.insert_stmt.select_stmt
    return not is_a(select, "select_stmt") or bool(select.select_stmt.values_lists)


@dataclass(frozen=True)
class InsertRows:
    """`rows` are the rows of `table`, `head` and `tail` what is around them, with `_CUT` for the partition's schema."""

    table: str
    head: str
    tail: str
    rows: tuple[str, ...]
    keys: tuple[WrittenKey, ...]
    assigned: tuple[WrittenKey, ...]
    #: Why the rows must not be inserted on several shards, or "".
    alone: str
    #: There is no ON CONFLICT.
    new: bool

    def bind(self, parameters: Mapping[str, Any], topology: Topology) -> Steps:
        by_partition: dict[int, list[int]] = {}
        for place, key in enumerate(self.keys):
            owner = owner_of(key, parameters, topology)
            by_partition.setdefault(owner.partition.id, []).append(place)
        placements = [topology.shard_map.placement(partition) for partition in by_partition]
        if len(placements) > 1 and self.alone:
            raise refuse("SP133", self.alone)
        if len(placements) > 1 and moving_parameters(parameters):
            raise refuse("SP133", "a parameter may mean the current time")
        steps = []
        for placement in sorted(placements, key=lambda it: (it.shard, it.partition.id)):
            partition = placement.partition
            check_assigned(self.assigned, partition, parameters, topology)
            places = by_partition[partition.id]
            text = self.head + ", ".join(self.rows[place] for place in places) + self.tail
            schema = topology.qualifiers[partition.id].removesuffix(".")
            sql = topology.search_paths[partition.id] + text.replace(_CUT, schema + ".")
            steps.append(Step(placement.shard, sql, placement, tuple(places)))
        return Steps(tuple(steps), new=self.new, table=self.table)


def without_constant_rows(statement: Statement) -> Statement:
    """The statement with the tree of the first of its rows, if there is nothing in them but literals and parameters:
    what holds for one of those holds for all, and there may be thousands."""
    if kind(statement.node) != "insert_stmt" or not is_a(statement.node.insert_stmt.select_stmt, "select_stmt"):
        return statement
    rows = statement.node.insert_stmt.select_stmt.select_stmt.values_lists
    if len(rows) <= 1 or moving_parameters({"": statement.numbered}):
        return statement
    if any(item.WhichOneof("node") not in _CONSTANTS for row in rows for item in row.list.items):
        return statement
    node = copied(statement.node)
    del node.insert_stmt.select_stmt.select_stmt.values_lists[1:]
    return statement.lightened(node)


def compile_rows(statement: Statement, light: Statement, topology: Topology) -> InsertRows:
    """*light*: the same, `without_constant_rows`."""
    compile_keyed(light, topology)  # for its refusals
    insert = statement.node.insert_stmt
    if any(isinstance(node, pb.SubLink) for node in walk(light.node)):
        raise refuse("SP132", "a subquery in VALUES would read one partition only")
    table = target_of(statement, topology)
    ranges = _row_ranges(statement)
    pieces = _CUT.join(on_search_path(light, topology, ranges)).split(_ROW)
    return InsertRows(
        table.name,
        pieces[0],
        pieces[-1],
        tuple(pieces[1:-1:2]),
        tuple(inserted_keys(insert, table, statement, topology)),
        tuple(updated_keys(insert, table, statement)),
        _not_per_row(light.node.insert_stmt, topology),
        not insert.HasField("on_conflict_clause"),
    )


def _row_ranges(statement: Statement) -> list[tuple[int, int, str]]:
    """Return edits that mark where each row of VALUES begins and ends. Raise if the text is not what the tree says."""
    lists = [list(node.list.items) for node in statement.node.insert_stmt.select_stmt.select_stmt.values_lists]
    for found in _values_clauses(statement.numbered):
        if len(found) == len(lists) and all(map(_lies_within, lists, found)):
            return [(place, place, _ROW) for both in found for place in both]
    raise refuse("SP132", "the rows of VALUES could not be told apart")


def _values_clauses(sql: str) -> list[list[tuple[int, int]]]:
    """Return the byte ranges of the parenthesised rows after each VALUES."""
    clauses: list[list[tuple[int, int]]] = []
    depth, inside, start = 0, -1, 0
    for token in postgast.scan(sql).tokens:
        if token.token == pb.VALUES:
            clauses.append([])
            inside = depth
        elif token.token == pb.ASCII_40:
            if depth == inside:
                start = token.start
            depth += 1
        elif token.token == pb.ASCII_41:
            depth -= 1
            if depth == inside:
                clauses[-1].append((start, token.end))
            elif depth < inside:
                inside = -1
        elif depth == inside and token.token not in (pb.ASCII_44, pb.SQL_COMMENT, pb.C_COMMENT):
            inside = -1
    return clauses


def _lies_within(items: list[Tree], place: tuple[int, int]) -> bool:
    locations = [getattr(unwrap(item), "location", place[0]) for item in items]
    return all(place[0] <= location < place[1] for location in locations)


def _not_per_row(insert: Tree, topology: Topology) -> str:
    """Return what in an INSERT would not mean the same on several shards, or ""."""
    parts = [item for node in insert.select_stmt.select_stmt.values_lists for item in node.list.items]
    parts += [*returned(insert), *expressions(insert.on_conflict_clause.target_list)]
    if insert.on_conflict_clause.HasField("where_clause"):
        parts.append(insert.on_conflict_clause.where_clause)
    for part in parts:
        reason = not_per_row(part, topology)
        if reason is not None:
            return reason
    return "WITH" if insert.HasField("with_clause") else ""


def not_per_row(node: Tree, topology: Topology) -> str | None:
    """Return what in an expression is neither repeatable nor a fresh value for each row, or None."""
    value = unwrap(node)
    if isinstance(value, pb.SetToDefault) or (isinstance(value, pb.ColumnRef) and len(value.fields) > 0):
        return None

    def replace(inner: Tree) -> Tree | None:
        if is_a(inner, "merge_support_func"):
            return expression("NULL")
        if not is_a(inner, "func_call"):
            return None
        path = names(inner.func_call.funcname)
        own = path[-1] in PER_ROW and path[:-1] in ((), ("pg_catalog",)) and path[-1] not in topology.user_functions
        return expression("NULL") if own and not inner.func_call.args else None

    return not_repeatable(rewritten(node, replace), topology)
