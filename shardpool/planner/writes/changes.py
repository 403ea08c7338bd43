"""UPDATE and DELETE whose rows a query over all shards finds, with their new values.

The rows are then written by primary key, each only if all of it is still as the query saw it: otherwise somebody has
changed it meanwhile, and the whole is to be done again. A row whose partition key changes so that it belongs elsewhere
is deleted there and inserted here. That is no UPDATE for triggers, nor for foreign keys that do more than check: a
table that has such is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, is_a, kind, names, unwrap, walk, walk_flat
from shardpool.planner.functions import is_set
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.refusals import refuse
from shardpool.planner.rewrite import copied, expression, target
from shardpool.planner.safety import moving_parameters
from shardpool.planner.scopes import Scope
from shardpool.planner.statement import Statement
from shardpool.planner.writes.staged import (
    ROWS,
    Value,
    as_found,
    cell,
    check_around,
    compile_source,
    copies_of,
    generated,
    new_value,
    own_star,
    place_key,
    row_parameters,
    row_step,
    rows_item,
    shared_path,
    stored_key,
)
from shardpool.planner.writes.steps import Copies, Found, Step, Steps, alias_of, returned, target_of
from shardpool.topology.key import KeyType
from shardpool.topology.names import literal, quote
from shardpool.topology.shard_map import Placement, Topology
from shardpool.topology.tables import Column, Table

_MATCH = "shardpool_match"
_NEW = "shardpool_new_"

#: What would notice that a row is not updated but deleted and inserted.
_GUARD = """
SELECT 'trigger ' || tgname FROM pg_catalog.pg_trigger
WHERE tgrelid = to_regclass({table}) AND NOT tgisinternal AND tgname NOT LIKE 'shardpool\\_capture%%'
UNION ALL SELECT 'foreign key ' || conname FROM pg_catalog.pg_constraint
WHERE contype = 'f' AND confrelid = to_regclass({table})
AND NOT (confupdtype IN ('a', 'r') AND confdeltype IN ('a', 'r'))
"""


@dataclass(frozen=True)
class StagedChange:
    """`words` change rows where they are; `delete` and `insert` move them, for a change of the partition key.

    The source's columns are the table's own, as texts, then the new values. `values`: those by the names of their
    columns, None for DEFAULT.
    """

    source: CompiledQuery
    table: Table
    alias: str
    values: Mapping[str, Value | None]
    words: str
    delete: str
    insert: str
    copies: Copies | None

    @property
    def moves(self) -> bool:
        """Whether it may move rows to other partitions."""
        return bool(self.insert)

    def steps(self, found: Found, parameters: Mapping[str, Any], topology: Topology) -> Steps:
        if moving_parameters(parameters):
            raise refuse("SP133", "a parameter may mean the current time")
        rows = self._distinct(found)
        columns = len(found.types)
        words = self._text(self.words, found)
        if self.copies is not None:
            given = row_parameters(columns, rows, parameters)
            shards = sorted(topology.shard_map.shards)
            all_shards = (
                Step(it, shared_path(topology) + words, parameters=given, expected=len(rows)) for it in shards
            )
            return Steps(tuple(all_shards), self.copies)
        there = _Rows()
        leaving, arriving = _Rows(), _Rows()
        parts = self._key_parts()
        for row in rows:
            old, new = self._places(parts, row, found, topology)
            if old.partition.id == new.partition.id:
                there.add(old, row)
            else:
                leaving.add(old, row)
                arriving.add(new, row)
        if not rows:
            there.by_placement[topology.shard_map.placements[0]] = []
        steps = [
            *leaving.steps(self._text(self.delete, found), columns, parameters, topology, quiet=True),
            *there.steps(words, columns, parameters, topology),
            *arriving.steps(self._text(self.insert, found), columns, parameters, topology),
        ]
        guard = self._guard(next(iter(leaving.by_placement))) if leaving.by_placement else None
        return Steps(tuple(steps), guard=guard, before=tuple(rows))

    def _distinct(self, found: Found) -> list[tuple[str | None, ...]]:
        """The rows, each once: where several joined rows change the same one, any of them does."""
        names = [column.name for column in self.table.columns]
        places = [names.index(name) for name in self.table.primary_key]
        return list({tuple(row[place] for place in places): row for row in reversed(found.rows)}.values())[::-1]

    def _key_parts(self) -> list[tuple[int, Column, KeyType, Value | None]]:
        """Of each part of the key: its place among the columns, what it is, and its new value."""
        names = [column.name for column in self.table.columns]
        places = [names.index(name) for name in self.table.key]
        return [
            (place, self.table.columns[place], key_type, self.values.get(names[place]))
            for place, key_type in zip(places, self.table.key_types, strict=True)
        ]

    def _places(
        self,
        parts: Sequence[tuple[int, Column, KeyType, Value | None]],
        row: Sequence[str | None],
        found: Found,
        topology: Topology,
    ) -> tuple[Placement, Placement]:
        """Where the row is, and where it belongs then."""
        old, new = [], []
        for place, column, key_type, value in parts:
            old.append(stored_key(row[place], column, key_type))
            new.append(old[-1] if value is None else value.key(found, row, key_type))
        there = place_key(old, self.table, topology)
        return there, there if new == old else place_key(new, self.table, topology)

    def _text(self, words: str, found: Found) -> str:
        """Fill in what was found out about the rows' types."""
        for name, value in self.values.items():
            if value is not None:
                words = words.replace(f"{_NEW}{value.place}_", f"({value.sql(found.types)})")
            elif name in self.table.key:
                raise refuse("SP114", self.table.name)
        return words.replace(f"{ROWS}_item", rows_item(len(found.types))).replace(_MATCH, self._match())

    def _match(self) -> str:
        return as_found(self.table, self.alias)

    def _guard(self, placement: Placement) -> Step:
        table = literal(f"{quote(placement.partition.schema)}.{quote(self.table.name)}").replace("%", "%%")
        return Step(placement.shard, _GUARD.format(table=table), placement)


class _Rows:
    """Rows by where they are written."""

    def __init__(self) -> None:
        self.by_placement: dict[Placement, list[Sequence[str | None]]] = {}

    def add(self, placement: Placement, row: Sequence[str | None]) -> None:
        self.by_placement.setdefault(placement, []).append(row)

    def steps(
        self, sql: str, columns: int, parameters: Mapping[str, Any], topology: Topology, *, quiet: bool = False
    ) -> list[Step]:
        ordered = sorted(self.by_placement.items(), key=lambda it: (it[0].shard, it[0].partition.id))
        return [
            replace(row_step(it, sql, columns, rows, parameters, topology), expected=len(rows), quiet=quiet)
            for it, rows in ordered
        ]


def compile_staged_change(statement: Statement, topology: Topology) -> StagedChange:
    """Raise `RoutingError` or `UnsupportedStatement`."""
    table = target_of(statement, topology)
    if not table.primary_key:
        raise refuse("SP132", f"table {table.name!r} has no primary key to write its rows by")
    write = copied(unwrap(statement.node))
    alias = alias_of(write)
    update = kind(statement.node) == "update_stmt"
    assigned = _assigned(write, table) if update else {}
    select, places = _source(write, alias, table, assigned, update)
    source = compile_source(select, statement, topology)
    scope = source.analysis.scope_of(source.statement.node.select_stmt)
    check_around(returned(write), topology)
    _check_returned(write, alias, bool(write.from_clause if update else write.using_clause), scope)
    values: dict[str, Value | None] = {}
    for name, node in assigned.items():
        column = table.column(name)
        assert column is not None
        values[name] = None if node is None else new_value(column, places[name], node, scope)
    write.ClearField("with_clause")
    if write.HasField("returning_clause"):
        listed = [own_star(node, alias) for node in write.returning_clause.exprs]
        write.returning_clause.CopyFrom(pb.ReturningClause(exprs=listed))
    copies = copies_of(write, table, topology)
    words = _in_place(write, update, values, statement, topology)
    moves = table.sharded and bool(assigned.keys() & set(table.key))
    delete = _delete(write, statement, topology) if moves else ""
    insert = _insert(write, alias, table, values, statement, topology) if moves else ""
    return StagedChange(source, table, alias, values, words, delete, insert, copies)


def _assigned(write: Tree, table: Table) -> dict[str, Tree | None]:
    """Column -> its new value, None for DEFAULT."""
    found: dict[str, Tree | None] = {}
    for node in write.target_list:
        name, value = node.res_target.name, node.res_target.val
        column = table.column(name)
        if node.res_target.indirection or column is None or column.generated or name in found:
            raise refuse("SP132", f"{name} is assigned in part, twice, or though it is generated or unknown")
        if is_a(value, "multi_assign_ref"):
            if not is_a(value.multi_assign_ref.source, "row_expr"):
                raise refuse("SP132", "several columns are assigned from one subquery")
            value = value.multi_assign_ref.source.row_expr.args[value.multi_assign_ref.colno - 1]
        _check_one_value(value)
        found[name] = None if is_a(value, "set_to_default") else value
    return found


def _check_one_value(value: Tree) -> None:
    """Refuse what a SELECT takes, and PostgreSQL's UPDATE does not."""
    for node in walk_flat(value):
        if isinstance(node, pb.FuncCall) and (node.HasField("over") or is_set(names(node.funcname)[-1])):
            raise refuse("SP132", f"{names(node.funcname)[-1]}() is no value of one row")


def _source(
    write: Tree, alias: str, table: Table, assigned: Mapping[str, Tree | None], update: bool
) -> tuple[Tree, dict[str, int]]:
    """The SELECT of the rows to change, and where the new values are in it."""
    select = pb.SelectStmt(limit_option=pb.LIMIT_OPTION_DEFAULT, op=pb.SETOP_NONE)
    select.from_clause.append(pb.Node(range_var=copied(write.relation)))
    select.from_clause.extend(write.from_clause if update else write.using_clause)
    for column in table.columns:
        select.target_list.append(target(expression(f"CAST({quote(alias)}.{quote(column.name)} AS text)")))
    places = {}
    for name, value in assigned.items():
        if value is not None:
            places[name] = len(select.target_list)
            select.target_list.append(target(copied(value)))
    if write.HasField("where_clause"):
        select.where_clause.CopyFrom(write.where_clause)
    if write.HasField("with_clause"):
        select.with_clause.CopyFrom(write.with_clause)
    return select, places


def _check_returned(write: Tree, alias: str, joined: bool, scope: Scope) -> None:
    """RETURNING may only look at the written row: the others are elsewhere by then."""
    for node in walk(write.returning_clause):
        if not isinstance(node, pb.ColumnRef):
            continue
        fields = column_fields(node)
        member = scope.resolve(node)
        own = not joined if fields == ("*",) else fields[-1] == "*" and fields[-2] == alias
        if not own and (member is None or member[0] is not scope.items[0]):
            raise refuse("SP132", f"RETURNING has {'.'.join(fields)}, which is no column of the written table")


def _in_place(
    write: Tree, update: bool, values: Mapping[str, Value | None], statement: Statement, topology: Topology
) -> str:
    changed = copied(write)
    if update:
        del changed.target_list[:]
        for name, value in values.items():
            new = pb.Node(set_to_default=pb.SetToDefault()) if value is None else expression(f"{_NEW}{value.place}_")
            changed.target_list.append(target(new, name))
    items = changed.from_clause if update else changed.using_clause
    del items[:]
    items.append(pb.Node(range_var=pb.RangeVar(relname=f"{ROWS}_item", inh=True, relpersistence="p")))
    changed.where_clause.CopyFrom(expression(_MATCH))
    return generated(changed, statement, topology)


def _delete(write: Tree, statement: Statement, topology: Topology) -> str:
    delete = pb.DeleteStmt(relation=copied(write.relation))
    return _in_place(delete, False, {}, statement, topology)


def _insert(
    write: Tree,
    alias: str,
    table: Table,
    values: Mapping[str, Value | None],
    statement: Statement,
    topology: Topology,
) -> str:
    """``INSERT INTO table AS alias (...) SELECT <old and new values> FROM <rows> RETURNING ...``"""
    insert = pb.InsertStmt(relation=copied(write.relation), override=pb.OVERRIDING_NOT_SET)
    insert.relation.alias.aliasname = alias
    listed = []
    for place, column in enumerate(table.columns):
        value = values.get(column.name)
        if column.generated or (value is None and column.name in values):
            continue
        insert.cols.append(pb.Node(res_target=pb.ResTarget(name=column.name)))
        listed.append(f"CAST({cell(place)} AS {column.type})" if value is None else f"{_NEW}{value.place}_")
    select = expression(f"(SELECT {', '.join(listed)} FROM {ROWS}_item)").sub_link.subselect
    insert.select_stmt.CopyFrom(select)
    if write.HasField("returning_clause"):
        insert.returning_clause.CopyFrom(write.returning_clause)
    return generated(insert, statement, topology)
