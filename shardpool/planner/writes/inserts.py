"""INSERT of rows that a query over all shards gives: each goes to the partition of its key, or to every copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, is_a, is_star, walk
from shardpool.planner.keyed import WrittenKey, inserted_columns, updated_keys
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.refusals import refuse
from shardpool.planner.rewrite import copied, expression, target
from shardpool.planner.safety import moving_parameters
from shardpool.planner.scopes import Scope
from shardpool.planner.statement import Statement
from shardpool.planner.writes.staged import (
    ROWS,
    Value,
    check_around,
    compile_source,
    copies_of,
    generated,
    new_value,
    place_key,
    row_parameters,
    row_step,
    rows_item,
    shared_path,
    stored_key,
    unbounded,
)
from shardpool.planner.writes.steps import (
    Copies,
    Found,
    Step,
    Steps,
    check_assigned,
    expressions,
    returned,
    target_of,
)
from shardpool.topology.shard_map import Placement, Topology
from shardpool.topology.tables import Column, Table

_SELECT = f"SELECT {ROWS}.shardpool_columns FROM {ROWS}"


@dataclass(frozen=True)
class Copied:
    """Rows that can be copied as they are: the columns that they fill, and where among them the key is."""

    table: Table
    columns: tuple[Column, ...]
    keys: tuple[int, ...]

    def place(self, texts: Sequence[str | None], topology: Topology) -> Placement:
        """Where the row with a key of these texts belongs. Raise `UnsupportedStatement` if that is not certain."""
        parts = [
            stored_key(text, self.columns[place], key_type)
            for text, place, key_type in zip(texts, self.keys, self.table.key_types, strict=True)
        ]
        return place_key(parts, self.table, topology)


@dataclass(frozen=True)
class StagedInsert:
    """`words` with `_SELECT` where the rows are selected; `values` are those of the columns that are named.

    `new`: without ON CONFLICT; `plain`: also without RETURNING, and into a sharded table.
    """

    source: CompiledQuery
    table: Table
    values: tuple[Value, ...]
    assigned: tuple[WrittenKey, ...]
    words: str
    copies: Copies | None
    plain: bool
    new: bool

    def copied(self, types: Sequence[str], parameters: Mapping[str, Any]) -> Copied | None:
        """How rows of these types can be copied; None if they are to be read, and cast to what the columns are."""
        columns = tuple(value.column for value in self.values[: len(types)])
        names = [column.name for column in columns]
        alike = all(
            found == unbounded(column) and not column.generated for found, column in zip(types, columns, strict=False)
        )
        if not self.plain or not alike or len(types) > len(self.values) or not set(self.table.key) <= set(names):
            return None
        if moving_parameters(parameters) or len(set(names)) < len(names):
            return None
        return Copied(self.table, columns, tuple(names.index(name) for name in self.table.key))

    def steps(self, found: Found, parameters: Mapping[str, Any], topology: Topology) -> Steps:
        columns = len(found.types)
        if columns > len(self.values):
            raise refuse("SP132", f"INSERT has more expressions ({columns}) than columns ({len(self.values)})")
        if moving_parameters(parameters):
            raise refuse("SP133", "a parameter may mean the current time")
        listed = ", ".join(value.sql(found.types) for value in self.values[:columns])
        sql = self.words.replace(_SELECT, f"SELECT {listed} FROM {rows_item(columns)}")
        if self.copies is not None:
            given = row_parameters(columns, found.rows, parameters)
            shards = sorted(topology.shard_map.shards)
            return Steps(tuple(Step(it, shared_path(topology) + sql, parameters=given) for it in shards), self.copies)
        steps = []
        for placement, places in sorted(
            self._places(found, topology).items(), key=lambda it: (it[0].shard, it[0].partition.id)
        ):
            check_assigned(self.assigned, placement.partition, parameters, topology)
            rows = [found.rows[place] for place in places]
            step = row_step(placement, sql, columns, rows, parameters, topology)
            steps.append(replace(step, rows=tuple(places)))
        return Steps(tuple(steps), new=self.new)

    def _places(self, found: Found, topology: Topology) -> dict[Placement, list[int]]:
        by_name = {value.column.name: value for value in self.values[: len(found.types)]}
        if not set(self.table.key) <= by_name.keys():
            raise refuse("SP113", self.table.name)
        keys = [(by_name[name], key_type) for name, key_type in zip(self.table.key, self.table.key_types, strict=True)]
        by_placement: dict[Placement, list[int]] = {}
        for place, row in enumerate(found.rows):
            parts = [value.key(found, row, key_type) for value, key_type in keys]
            by_placement.setdefault(place_key(parts, self.table, topology), []).append(place)
        # Where there are no rows, one partition still tells the columns of an empty answer, and errors of types.
        return by_placement or {topology.shard_map.placements[0]: []}


def compile_staged_insert(statement: Statement, topology: Topology) -> StagedInsert:
    """Raise `RoutingError` or `UnsupportedStatement`."""
    insert = copied(statement.node.insert_stmt)
    table = target_of(statement, topology)
    conflict = insert.on_conflict_clause
    around = [*returned(insert), *expressions(conflict.target_list)]
    if conflict.HasField("where_clause"):
        around.append(conflict.where_clause)
    check_around(around, topology)
    select = _select(insert)
    source = compile_source(select, statement, topology)
    names = inserted_columns(insert, table)
    if any(node.res_target.indirection for node in insert.cols) or any(table.column(name) is None for name in names):
        raise refuse("SP132", "a part of a column is inserted")
    nodes = _columns(select)
    scope = None if select.op != pb.SETOP_NONE or select.values_lists else _outermost(source)
    values = []
    for place, name in enumerate(names):
        column = table.column(name)
        assert column is not None
        node = nodes[place] if place < len(nodes) else pb.Node()
        values.append(new_value(column, place, node, scope))
    if table.sharded and not set(table.key) <= set(names):
        raise refuse("SP113", table.name)
    copies = copies_of(insert, table, topology)
    insert.select_stmt.select_stmt.CopyFrom(_rows_select())
    insert.ClearField("with_clause")
    assigned = tuple(updated_keys(insert, table, statement)) if table.sharded else ()
    new = not insert.HasField("on_conflict_clause")
    plain = table.sharded and new and not insert.HasField("returning_clause")
    words = generated(insert, statement, topology)
    if words.count(_SELECT) != 1:
        raise refuse("SP132", f"it has a table called {ROWS}")
    return StagedInsert(source, table, tuple(values), assigned, words, copies, plain, new)


def _select(insert: Tree) -> Tree:
    """The query whose rows are inserted."""
    if not is_a(insert.select_stmt, "select_stmt"):
        raise refuse("SP113", insert.relation.relname)
    select = copied(insert.select_stmt.select_stmt)
    if len(select.values_lists) == 1:
        # As PostgreSQL takes it: functions in it may return sets.
        select.target_list.extend(target(item) for item in select.values_lists[0].list.items)
        del select.values_lists[:]
    if any(isinstance(node, pb.SetToDefault) for node in walk(select)):
        raise refuse("SP132", "DEFAULT beside values that are computed by a query")
    if insert.HasField("with_clause"):
        if select.HasField("with_clause"):
            raise refuse("SP132", "WITH both before INSERT and before its SELECT")
        select.with_clause.CopyFrom(insert.with_clause)
    return select


def _columns(select: Tree) -> list[Tree]:
    """The expressions of the columns as far as they are surely that: of VALUES none that is not so in each row."""
    if select.op != pb.SETOP_NONE:
        return []
    if select.values_lists:
        rows = [node.list.items for node in select.values_lists]
        return [next((it for it in column if not _literal(it)), column[0]) for column in zip(*rows, strict=True)]
    found = expressions(select.target_list)
    stars = [is_star(it) for it in found]
    return found[: stars.index(True)] if True in stars else found


def _literal(node: Tree) -> bool:
    return is_a(node, "a_const") or is_a(node, "param_ref")


def _outermost(source: CompiledQuery) -> Scope:
    return source.analysis.scope_of(source.statement.node.select_stmt)


def _rows_select() -> Tree:
    select = expression(f"({_SELECT})").sub_link.subselect.select_stmt
    return copied(select)
