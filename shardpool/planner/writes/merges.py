"""MERGE: in each partition by itself where both sides lie together, else with the rows of the source sent there.

Either way a row of the source can only match rows of one partition: the condition compares the target's whole
partition key with it, and an inserted row takes its key from it. (Others: `pairs`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, is_a, names
from shardpool.planner.keyed import KeyedStatement, WrittenKey, assigned_keys
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.refusals import refuse
from shardpool.planner.rewrite import copied, expression, target
from shardpool.planner.safety import moving_parameters
from shardpool.planner.statement import Statement
from shardpool.planner.words import on_search_path
from shardpool.planner.writes.own_keys import copies_own_key
from shardpool.planner.writes.partitions import WritePartitions, still_words
from shardpool.planner.writes.staged import (
    ROWS,
    check_around,
    compile_source,
    copies_of,
    generated,
    place_key,
    row_parameters,
    row_step,
    shared_path,
    stored_key,
    typed_rows,
)
from shardpool.planner.writes.steps import (
    Copies,
    Found,
    Step,
    Steps,
    alias_of,
    assigned_parts,
    check_assigned,
    returned,
    target_of,
)
from shardpool.topology.key import KEY_TYPES
from shardpool.topology.shard_map import Placement, Topology
from shardpool.topology.tables import Table

ITEM = f"{ROWS}_item"


def compile_merge(statement: Statement, topology: Topology) -> WritePartitions:
    """A MERGE whose sides lie together. Raise `RoutingError` or `UnsupportedStatement`."""
    merge = statement.node.merge_stmt
    table = merge_target(statement, topology)
    join = pb.JoinExpr(
        jointype=join_type(merge),
        larg=pb.Node(range_var=copied(merge.relation)),
        rarg=copied(merge.source_relation),
        quals=copied(merge.join_condition),
    )
    select = pb.SelectStmt(limit_option=pb.LIMIT_OPTION_DEFAULT, op=pb.SETOP_NONE)
    select.from_clause.append(pb.Node(join_expr=join))
    select.target_list.extend(target(copied(node)) for node in (expression("1"), *evaluated(merge)))
    if merge.HasField("with_clause"):
        select.with_clause.CopyFrom(merge.with_clause)
    source = compile_source(select, statement, topology)
    scope = source.analysis.scope_of(source.statement.node.select_stmt)
    for keys in inserted_keys(merge, table):
        if not copies_own_key(keys, scope, table):
            raise refuse("SP113", table.name)
    keyed = KeyedStatement(on_search_path(statement, topology), True, (), (), True)
    still = still_words(keyed, statement, topology)
    return WritePartitions(table.name, keyed, assigned_by(merge, table, statement), source, still)


@dataclass(frozen=True)
class StagedMerge:
    """`words` with `ITEM` for the source's rows. `keys`: the names of the source's columns that are the key, which rows
    of a reference table need none of."""

    source: CompiledQuery
    table: Table
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    assigned: tuple[WrittenKey, ...]
    everywhere: bool
    words: str
    copies: Copies | None = None

    def steps(self, found: Found, parameters: Mapping[str, Any], topology: Topology) -> Steps:
        if moving_parameters(parameters):
            raise refuse("SP133", "a parameter may mean the current time")
        if "" in found.types:
            raise refuse("SP132", f"{self.columns[found.types.index('')]} of the source is of a type of yours")
        sql = self.words.replace(ITEM, typed_rows(self.columns, found.types))
        if self.copies is not None:
            given = row_parameters(len(found.types), found.rows, parameters)
            shards = sorted(topology.shard_map.shards)
            return Steps(tuple(Step(it, shared_path(topology) + sql, parameters=given) for it in shards), self.copies)
        placed = self._placed(found, topology)
        if self.everywhere or not placed:
            wanted = topology.shard_map.placements if self.everywhere else topology.shard_map.placements[:1]
            placed = {placement: placed.get(placement, []) for placement in wanted}
        steps = []
        for placement, its in sorted(placed.items(), key=lambda it: (it[0].shard, it[0].partition.id)):
            check_assigned(self.assigned, placement.partition, parameters, topology)
            steps.append(row_step(placement, sql, len(found.types), its, parameters, topology))
        return Steps(tuple(steps))

    def _placed(self, found: Found, topology: Topology) -> dict[Placement, list[tuple[str | None, ...]]]:
        places = [self.columns.index(name) for name in self.keys]
        for place, key_type in zip(places, self.table.key_types, strict=True):
            if KEY_TYPES.get(found.types[place]) != key_type:
                raise refuse("SP132", f"{self.columns[place]} of the source is {found.types[place]}, unlike the key")
        by_placement: dict[Placement, list[tuple[str | None, ...]]] = {}
        columns = [self.table.column(name) for name in self.table.key]
        for row in found.rows:
            parts = [
                stored_key(row[place], column, key_type)
                for place, column, key_type in zip(places, columns, self.table.key_types, strict=True)
                if column is not None
            ]
            by_placement.setdefault(place_key(parts, self.table, topology), []).append(row)
        return by_placement


def compile_staged_merge(statement: Statement, topology: Topology) -> StagedMerge:
    """Raise `RoutingError` or `UnsupportedStatement`."""
    merge = copied(statement.node.merge_stmt)
    table = merge_target(statement, topology)
    source, name, columns = _found_first(merge, statement, topology)
    alias = alias_of(merge)
    compared = _compared(merge.join_condition, alias, name)
    if not set(table.key) <= compared.keys():
        raise refuse("SP132", f"it does not join {alias} by its partition key with columns of {name}")
    keys = tuple(compared[name] for name in table.key)
    for nodes in inserted_keys(merge, table):
        if [_member(node, name) for node in nodes] != list(keys):
            raise refuse("SP113", table.name)
    everywhere = any(
        it.merge_when_clause.match_kind == pb.MERGE_WHEN_NOT_MATCHED_BY_SOURCE for it in merge.merge_when_clauses
    )
    assigned = assigned_by(merge, table, statement)
    read_rows(merge, name)
    words = generated(merge, statement, topology)
    return StagedMerge(source, table, keys, columns, assigned, everywhere, words)


def _found_first(merge: Tree, statement: Statement, topology: Topology) -> tuple[CompiledQuery, str, tuple[str, ...]]:
    """Return the query for the source's rows, and what it and its columns are called. Raise as above."""
    check_around([merge.join_condition, *evaluated(merge)], topology)
    source = compile_source(merge_source(merge), statement, topology)
    return source, *source_item(source)


def compile_merged_copies(statement: Statement, topology: Topology) -> StagedMerge:
    """A MERGE into a reference table: the source's rows are found once, and merged into each copy. Raise as above."""
    merge = copied(statement.node.merge_stmt)
    table = target_of(statement, topology)
    source, name, columns = _found_first(merge, statement, topology)
    read_rows(merge, name)
    copies = copies_of(merge, table, topology)
    return StagedMerge(source, table, (), columns, (), False, generated(merge, statement, topology), copies)


def merge_source(merge: Tree) -> Tree:
    """``SELECT * FROM`` the source of a MERGE."""
    select = pb.SelectStmt(limit_option=pb.LIMIT_OPTION_DEFAULT, op=pb.SETOP_NONE)
    select.from_clause.append(copied(merge.source_relation))
    select.target_list.append(target(expression("*")))
    if merge.HasField("with_clause"):
        select.with_clause.CopyFrom(merge.with_clause)
    return select


def source_item(source: CompiledQuery) -> tuple[str, tuple[str, ...]]:
    """What the one item of `merge_source` is called, and its columns. Raise `UnsupportedStatement`."""
    items = source.analysis.scope_of(source.statement.node.select_stmt).items
    if len(items) != 1 or items[0].columns is None:
        raise refuse("SP132", "the columns of the source are not certain")
    if not items[0].alias:
        raise refuse("SP132", "the source has no name: write (SELECT ..) AS name")
    return items[0].alias, items[0].columns


def read_rows(merge: Tree, alias: str) -> None:
    """Let a MERGE read the rows that were found, `ITEM`, in the place of its source."""
    rows = pb.RangeVar(relname=ITEM, inh=True, relpersistence="p", alias=pb.Alias(aliasname=alias))
    merge.source_relation.CopyFrom(pb.Node(range_var=rows))
    merge.ClearField("with_clause")


def merge_target(statement: Statement, topology: Topology) -> Table:
    table = target_of(statement, topology)
    if not table.sharded:
        raise refuse("SP136", f"MERGE INTO {table.name}")
    return table


def join_type(merge: Tree) -> int:
    """The join whose rows are those that the clauses look at."""
    kinds = {it.merge_when_clause.match_kind for it in merge.merge_when_clauses}
    of_source = pb.MERGE_WHEN_NOT_MATCHED_BY_TARGET in kinds
    of_target = pb.MERGE_WHEN_NOT_MATCHED_BY_SOURCE in kinds
    if of_source and of_target:
        return int(pb.JOIN_FULL)
    return int(pb.JOIN_RIGHT if of_source else pb.JOIN_LEFT if of_target else pb.JOIN_INNER)


def evaluated(merge: Tree) -> list[Tree]:
    """What is evaluated for each row: conditions, new values, RETURNING."""
    found = returned(merge)
    for node in merge.merge_when_clauses:
        clause = node.merge_when_clause
        if clause.HasField("condition"):
            found.append(clause.condition)
        values = [it.res_target.val for it in clause.target_list if it.res_target.HasField("val")]
        for value in (*values, *clause.values):
            if is_a(value, "multi_assign_ref") and not is_a(value.multi_assign_ref.source, "row_expr"):
                raise refuse("SP132", "several columns are assigned from one subquery")
            found += assigned_parts(value)
    return found


def assigned_by(merge: Tree, table: Table, statement: Statement) -> tuple[WrittenKey, ...]:
    clauses = [node.merge_when_clause for node in merge.merge_when_clauses]
    updates = [clause for clause in clauses if clause.command_type == pb.CMD_UPDATE]
    return tuple(key for clause in updates for key in assigned_keys(clause.target_list, table, statement))


def inserted_keys(merge: Tree, table: Table) -> list[list[Tree]]:
    """The new keys of each INSERT. Raise `UnsupportedStatement` where one is a default."""
    found = []
    for node in merge.merge_when_clauses:
        clause = node.merge_when_clause
        if clause.command_type != pb.CMD_INSERT:
            continue
        columns = [it.res_target.name for it in clause.target_list] or [column.name for column in table.columns]
        by_name = dict(zip(columns, clause.values, strict=False))
        if not set(table.key) <= by_name.keys():
            raise refuse("SP113", table.name)
        found.append([by_name[name] for name in table.key])
    return found


def _compared(condition: Tree, target_alias: str, source_alias: str) -> dict[str, str]:
    """Columns of the target -> columns of the source that they must equal, as far as both are qualified."""
    if is_a(condition, "bool_expr") and condition.bool_expr.boolop == pb.AND_EXPR:
        found: dict[str, str] = {}
        for part in condition.bool_expr.args:
            found |= _compared(part, target_alias, source_alias)
        return found
    if not is_a(condition, "a_expr") or condition.a_expr.kind != pb.AEXPR_OP or names(condition.a_expr.name) != ("=",):
        return {}
    sides = (condition.a_expr.lexpr, condition.a_expr.rexpr)
    for mine, other in (sides, sides[::-1]):
        left, right = _member(mine, target_alias), _member(other, source_alias)
        if left is not None and right is not None:
            return {left: right}
    return {}


def _member(node: Tree, alias: str) -> str | None:
    """The name of a column that is qualified by *alias*."""
    fields = column_fields(node.column_ref) if is_a(node, "column_ref") else ()
    return fields[1] if len(fields) == 2 and fields[0] == alias and fields[1] != "*" else None
