"""MERGE whose condition may match rows of any partition: a query over all shards finds which rows match which.

Each row of the source is then sent to every row of the target that it matches, and to where it is inserted if it
matches none; rows of the target that match none are sent by themselves. There the user's clauses run over these pairs,
after the target's rows were locked, each still as it was found (else they are found again).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, is_a, walk
from shardpool.planner.keyed import WrittenKey
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.refusals import refuse
from shardpool.planner.rewrite import copied, expression, rewritten, target
from shardpool.planner.safety import moving_parameters, not_repeatable
from shardpool.planner.statement import Statement
from shardpool.planner.writes.merges import (
    ITEM,
    assigned_by,
    evaluated,
    inserted_keys,
    join_type,
    merge_source,
    merge_target,
    read_rows,
    source_item,
)
from shardpool.planner.writes.staged import (
    ROWS,
    as_found,
    check_around,
    compile_source,
    generated,
    place_key,
    row_step,
    rows_item,
    stored_key,
    typed_rows,
    unbounded,
)
from shardpool.planner.writes.steps import Copies, Found, Step, Steps, alias_of, check_assigned
from shardpool.topology.key import KEY_TYPES
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Placement, Topology
from shardpool.topology.tables import Table

_MATCH = f"{ROWS}_match"
_HERE = f"{ROWS}_here"
#: The kinds of joins with their sides exchanged.
_MIRRORED = {pb.JOIN_LEFT: pb.JOIN_RIGHT, pb.JOIN_RIGHT: pb.JOIN_LEFT}
Row = Sequence[str | None]


@dataclass
class _There:
    """What happens in one partition: rows of the target to lock, and pairs to merge."""

    locked: dict[Row, Row] = field(default_factory=dict)
    pairs: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class PairedMerge:
    """The rows of `source` are those of the MERGE's source, and the matching row of the target as texts, or NULLs;
    and, if it `inserts`, the key of the new row, or NULLs. `columns`: those of the MERGE's source, called `other`.
    """

    source: CompiledQuery
    table: Table
    alias: str
    other: str
    columns: tuple[str, ...]
    inserts: bool
    assigned: tuple[WrittenKey, ...]
    words: str
    copies: Copies | None = None

    def steps(self, found: Found, parameters: Mapping[str, Any], topology: Topology) -> Steps:
        if moving_parameters(parameters):
            raise refuse("SP133", "a parameter may mean the current time")
        if "" in found.types[: len(self.columns)]:
            raise refuse("SP132", f"{self.columns[found.types.index('')]} of the source is of a type of yours")
        width, own = len(self.columns), len(self.table.columns)
        rows = typed_rows((*self.columns, *map(_hidden, range(own))), found.types[: width + own])
        sql = self.words.replace(ITEM, rows).replace(_MATCH, self._same())
        steps: list[Step] = []
        for placement, there in sorted(
            self._placed(found, topology).items(), key=lambda it: (it[0].shard, it[0].partition.id)
        ):
            check_assigned(self.assigned, placement.partition, parameters, topology)
            if there.locked:
                locked = list(there.locked.values())
                step = row_step(placement, self._lock(), own, locked, {}, topology)
                steps.append(replace(step, expected=len(locked), quiet=True))
            steps.append(row_step(placement, sql, width + own, there.pairs, parameters, topology))
        return Steps(tuple(steps))

    def _placed(self, found: Found, topology: Topology) -> dict[Placement, _There]:
        width, names = len(self.columns), [column.name for column in self.table.columns]
        primary = [names.index(name) for name in self.table.primary_key]
        own = [width + names.index(name) for name in self.table.key]
        new = [width + len(names) + place for place in range(len(own))] if self.inserts else []
        for place, name, key_type in zip(new, self.table.key, self.table.key_types, strict=False):
            if KEY_TYPES.get(found.types[place]) != key_type:
                raise refuse("SP132", f"the {name} of new rows is computed as {found.types[place]}, unlike the column")
        by_placement: dict[Placement, _There] = {}
        for row in found.rows:
            matched = row[width + primary[0]] is not None
            if not matched and not new:
                continue
            there = by_placement.setdefault(self._place(row, own if matched else new, topology), _There())
            there.pairs.append(row)
            if matched:
                there.locked[tuple(row[width + place] for place in primary)] = row[width : width + len(names)]
        # Where there are no rows, one partition still tells the columns of an empty answer, and errors of types.
        return by_placement or {topology.shard_map.placements[0]: _There()}

    def _place(self, row: Row, places: Sequence[int], topology: Topology) -> Placement:
        parts = [
            stored_key(row[place], column, key_type)
            for place, name, key_type in zip(places, self.table.key, self.table.key_types, strict=True)
            if (column := self.table.column(name)) is not None
        ]
        return place_key(parts, self.table, topology)

    def _same(self) -> str:
        """Whether a row of the target is the one of the pair. It is locked: its primary key is enough."""
        parts = [
            f"{quote(self.alias)}.{quote(column.name)} = {quote(self.other)}.{_hidden(place)}::{unbounded(column)}"
            for place, column in enumerate(self.table.columns)
            if column.name in self.table.primary_key
        ]
        return " AND ".join(parts).replace("%", "%%")

    def _lock(self) -> str:
        name = f"{quote(self.table.name)} AS {quote(self.alias)}".replace("%", "%%")
        of = quote(self.alias).replace("%", "%%")
        match = as_found(self.table, self.alias)
        return f"SELECT 1 FROM {name}, {rows_item(len(self.table.columns))} WHERE {match} FOR UPDATE OF {of}"


def compile_paired_merge(statement: Statement, topology: Topology) -> PairedMerge:
    """Raise `RoutingError` or `UnsupportedStatement`."""
    merge = copied(statement.node.merge_stmt)
    table, alias = merge_target(statement, topology), alias_of(merge)
    if not table.primary_key:
        raise refuse("SP132", f"table {table.name!r} has no primary key to write its rows by")
    clauses = evaluated(merge)
    check_around(clauses, topology)
    select = merge_source(merge)
    other, columns = source_item(compile_source(select, statement, topology))
    select.target_list[0].CopyFrom(target(expression(f"{quote(other)}.*")))
    _check_whole_rows(clauses, alias, other)
    keys = _keys(merge, table, alias, other, topology)
    kind = join_type(merge)
    if kind in (pb.JOIN_LEFT, pb.JOIN_FULL):
        _tell_rows_alone(merge, alias, other)
        columns = (_HERE, *columns)
    del select.from_clause[:]
    join = pb.JoinExpr(
        jointype=_MIRRORED.get(kind, kind),
        larg=copied(merge.source_relation),
        rarg=pb.Node(range_var=copied(merge.relation)),
        quals=copied(merge.join_condition),
    )
    select.from_clause.append(pb.Node(join_expr=join))
    for place, column in enumerate(table.columns):
        value = expression(f"CAST({quote(alias)}.{quote(column.name)} AS text)")
        select.target_list.append(target(value, _hidden(place)))
    select.target_list.extend(target(key, _hidden(len(table.columns) + place)) for place, key in enumerate(keys))
    source = compile_source(select, statement, topology)
    read_rows(merge, other)
    merge.join_condition.CopyFrom(expression(_MATCH))
    words = generated(merge, statement, topology)
    assigned = assigned_by(merge, table, statement)
    return PairedMerge(source, table, alias, other, columns, bool(keys), assigned, words)


def _tell_rows_alone(merge: Tree, alias: str, other: str) -> None:
    """Let rows of the target that match nothing be pairs, too, with a source that is not there: a row that was not
    found is not merged, whether it matches or not."""
    here = target(expression("true"), _HERE)
    select = pb.SelectStmt(limit_option=pb.LIMIT_OPTION_DEFAULT, op=pb.SETOP_NONE)
    select.target_list.extend([here, target(expression("*"))])
    select.from_clause.append(copied(merge.source_relation))
    item = pb.RangeSubselect(subquery=pb.Node(select_stmt=select), alias=pb.Alias(aliasname=other))
    merge.source_relation.CopyFrom(pb.Node(range_subselect=item))
    for clause in (it.merge_when_clause for it in merge.merge_when_clauses):
        if clause.match_kind == pb.MERGE_WHEN_NOT_MATCHED_BY_TARGET:
            continue
        alone = clause.match_kind == pb.MERGE_WHEN_NOT_MATCHED_BY_SOURCE
        if alone:
            clause.match_kind = pb.MERGE_WHEN_MATCHED
            for it in clause.target_list:
                it.res_target.val.CopyFrom(_of_one(it.res_target.val, alias))
            if clause.HasField("condition"):
                clause.condition.CopyFrom(_of_one(clause.condition, alias))
        test = expression(f"{quote(other)}.{_HERE} IS {'' if alone else 'NOT '}NULL")
        both = pb.BoolExpr(boolop=pb.AND_EXPR, args=[test, copied(clause.condition)])
        clause.condition.CopyFrom(pb.Node(bool_expr=both) if clause.HasField("condition") else test)


def _keys(merge: Tree, table: Table, alias: str, other: str, topology: Topology) -> list[Tree]:
    """The key under which a row without a match is inserted, NULL if it is not: empty if none ever is.

    Whether it is, and its key, are asked again where it is merged: the answer must be the same.
    """
    inserted = iter(inserted_keys(merge, table))
    clauses = [it.merge_when_clause for it in merge.merge_when_clauses]
    parts = [pb.CaseExpr() for _ in table.key]
    for clause in clauses:
        if clause.match_kind != pb.MERGE_WHEN_NOT_MATCHED_BY_TARGET:
            continue
        keys = next(inserted) if clause.command_type == pb.CMD_INSERT else [expression("NULL") for _ in parts]
        if any(is_a(key, "set_to_default") for key in keys):
            raise refuse("SP113", table.name)
        condition = [_of_one(clause.condition, other)] if clause.HasField("condition") else []
        keys = [_of_one(key, other) for key in keys]
        for node in (*condition, *keys):
            reason = not_repeatable(node, topology)
            if reason is not None:
                raise refuse("SP133", reason)
        here = expression(f"{quote(alias)}.{quote(table.primary_key[0])} IS NULL")
        for part, key in zip(parts, keys, strict=True):
            when = pb.BoolExpr(boolop=pb.AND_EXPR, args=[here, *condition])
            test = pb.Node(bool_expr=when) if condition else here
            part.args.append(pb.Node(case_when=pb.CaseWhen(expr=test, result=key)))
    inserts = any(it.command_type == pb.CMD_INSERT for it in clauses)
    return [pb.Node(case_expr=part) for part in parts] if inserts else []


def _of_one(node: Tree, alias: str) -> Tree:
    """An expression over one side alone, where the other one is in sight, too."""

    def replace(inner: Tree) -> Tree | None:
        if not is_a(inner, "column_ref") or len(inner.column_ref.fields) > 1:
            return None
        return expression(f"{quote(alias)}.{quote(column_fields(inner.column_ref)[0])}")

    return rewritten(node, replace)


def _check_whole_rows(clauses: Sequence[Tree], alias: str, other: str) -> None:
    """The source has more columns where it is merged: its row as a whole is another there."""
    for fields in (column_fields(it) for clause in clauses for it in walk(clause) if isinstance(it, pb.ColumnRef)):
        if fields == (other,) or (fields[-1] == "*" and fields != (alias, "*")):
            raise refuse("SP132", "rows are named as a whole beside a join by other columns than the partition key")


def _hidden(place: int) -> str:
    return f"{ROWS}_old{place}"
