"""Writes in two halves: a query finds the rows, over all shards; then they are written where they belong.

The rows pass through Python as the texts that PostgreSQL spells them in, and come back as arrays of texts that are
unnested as ``shardpool_rows (shardpool_c0, ...)`` and cast to the types they had. The statement around them is
generated from the user's tree, with a proof (`ast.statement_sql`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import postgast
from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, UnfaithfulText, is_a, kind, statement_sql, to_sql
from shardpool.planner.constants import UNKNOWN, key_value
from shardpool.planner.keyed import text_length
from shardpool.planner.ladder import CompiledQuery, compile_query
from shardpool.planner.refusals import refuse
from shardpool.planner.rewrite import copied, expression, placed, target
from shardpool.planner.scopes import Scope
from shardpool.planner.statement import Statement, to_pyformat
from shardpool.planner.writes.rows import not_per_row
from shardpool.planner.writes.steps import Copies, Found, Step, alias_of
from shardpool.topology.key import KEY_TYPES, KeyType
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Placement, Topology
from shardpool.topology.tables import Column, Table

ROWS = "shardpool_rows"
#: Types that mean one character or bit if they are written without a length.
_UNBOUNDED = {"character": "bpchar", "bit": '"bit"'}


@dataclass(frozen=True)
class Value:
    """A new value: column *place* of the rows that were found, for *column*.

    `untyped`: a literal or parameter, which PostgreSQL reads in the column's type. `declared`: the type of the column
    that it is copied from, if it is.
    """

    column: Column
    place: int
    untyped: bool
    declared: str

    def type(self, types: Sequence[str]) -> str:
        """The type in which its text is to be read. Raise `UnsupportedStatement` if that is not certain."""
        found = types[self.place]
        if self.untyped and found == "text":
            return unbounded(self.column)
        if not found and self.declared != self.column.base_type:
            raise refuse("SP132", f"the type of the new {self.column.name} is a type of yours, and it is not copied")
        return found or self.column.base_type

    def sql(self, types: Sequence[str]) -> str:
        return f"{cell(self.place)}::{self.type(types)}"

    def key(self, found: Found, row: Sequence[str | None], key_type: KeyType) -> object:
        """The part of a partition key that it will be stored as; None for NULL. Raise `UnsupportedStatement`."""
        type_ = self.type(found.types)
        if KEY_TYPES.get(type_) != key_type:
            raise refuse("SP132", f"the new {self.column.name} is computed as {type_}, not as {self.column.type}")
        return stored_key(row[self.place], self.column, key_type)


def new_value(column: Column, place: int, node: Tree, scope: Scope | None) -> Value:
    """Describe the value of *node*, an expression of the source's outermost SELECT."""
    untyped = is_a(node, "param_ref") or (is_a(node, "a_const") and node.a_const.WhichOneof("val") in (None, "sval"))
    member = scope.resolve(node.column_ref) if scope is not None and is_a(node, "column_ref") else None
    origin = member[0].column(member[1]) if member is not None else None
    return Value(column, place, untyped, origin.base_type if origin is not None else "")


def unbounded(column: Column) -> str:
    """The column's type without its length: a text is read, and not cut."""
    head, _, tail = column.type.partition("(")
    return _UNBOUNDED.get(head, head) + tail.partition(")")[2]


def stored_key(text: str | None, column: Column, key_type: KeyType) -> object:
    """Read a part of a partition key from its text. Raise `UnsupportedStatement` if it is not certain."""
    if text is None:
        if not column.not_null:
            raise refuse("SP132", f"{column.name}, a part of the partition key, is NULL")
        return None
    value = bytes.fromhex(text.removeprefix("\\x")) if key_type is KeyType.BYTEA else key_value(text, key_type)
    if value is UNKNOWN or (isinstance(value, str) and len(value) > text_length(column.type)):
        raise refuse("SP132", f"the new {column.name} is not certain: {text!r}")
    return value


def place_key(parts: Sequence[object], table: Table, topology: Topology) -> Placement:
    """Where a key belongs; one that is NULL anywhere, for PostgreSQL to refuse."""
    if None in parts:
        return topology.shard_map.placements[0]
    return topology.place(parts[0] if len(parts) == 1 else tuple(parts), table.key_types)


def cell(place: int) -> str:
    return f"{ROWS}.shardpool_c{place}"


def rows_item(columns: int) -> str:
    """The rows as an item of FROM."""
    arrays = ", ".join(f"%(shardpool_c{place})s::text[]" for place in range(columns))
    names = ", ".join(f"shardpool_c{place}" for place in range(columns))
    return f"unnest({arrays}) AS {ROWS} ({names})"


def as_found(table: Table, alias: str) -> str:
    """Whether a row of *table* is the one of `rows_item`, whose first columns are all of its own, and unchanged."""
    parts = []
    for place, column in enumerate(table.columns):
        name = f"{quote(alias)}.{quote(column.name)}".replace("%", "%%")
        if column.name in table.primary_key:
            parts.append(f"{name} = {cell(place)}::{unbounded(column)}")
        else:
            parts.append(f'({name}::text COLLATE pg_catalog."C") IS NOT DISTINCT FROM {cell(place)}')
    return " AND ".join(parts)


def typed_rows(names: Sequence[str], types: Sequence[str]) -> str:
    """The rows as a subquery with columns of these names and types, for psycopg2."""
    listed = ", ".join(
        f"{cell(place)}::{type_} AS {quote(name)}" for place, (name, type_) in enumerate(zip(names, types, strict=True))
    )
    return f"(SELECT {listed} FROM {rows_item(len(types))})".replace("%", "%%").replace("%%(", "%(")


def row_parameters(
    columns: int, rows: Sequence[Sequence[str | None]], parameters: Mapping[str, Any]
) -> Mapping[str, Any]:
    return {**parameters, **{f"shardpool_c{place}": [row[place] for row in rows] for place in range(columns)}}


def row_step(
    placement: Placement,
    sql: str,
    columns: int,
    rows: Sequence[Sequence[str | None]],
    parameters: Mapping[str, Any],
    topology: Topology,
) -> Step:
    """A statement over *rows* in a partition."""
    text = topology.search_paths[placement.partition.id] + sql
    return Step(placement.shard, text, placement, parameters=row_parameters(columns, rows, parameters))


def compile_source(select: Tree, statement: Statement, topology: Topology) -> CompiledQuery:
    """Analyse a generated SELECT over the parameters of *statement*."""
    try:
        return compile_query(derived(to_sql(select), statement), topology)
    except UnfaithfulText:
        raise refuse("SP132", "the generated text could not be proven faithful") from None


def derived(sql: str, statement: Statement) -> Statement:
    """A statement of generated text with the parameters of *statement*."""
    places = [(token.start, token.end) for token in postgast.scan(sql).tokens if token.token == pb.PARAM]
    named = tuple((start, end, statement.names[int(sql.encode()[start + 1 : end]) - 1]) for start, end in places)
    return Statement(sql, statement.names, named, statement.lists)


def generated(write: Tree, statement: Statement, topology: Topology) -> str:
    """The text of a changed tree, in psycopg2's spelling, its tables found by the search path."""
    tree = placed(write, {}, topology.keyspace)
    name = next(field.name for field in pb.Node.DESCRIPTOR.fields if field.message_type is tree.DESCRIPTOR)
    try:
        return to_pyformat(statement_sql(pb.Node(**{name: tree})), statement)
    except UnfaithfulText:
        raise refuse("SP132", "the generated text could not be proven faithful") from None


def check_around(nodes: Sequence[Tree], topology: Topology) -> None:
    """Refuse what is evaluated where the rows are written, and would differ there."""
    for node in nodes:
        reason = not_per_row(node, topology)
        if reason is not None:
            raise refuse("SP133", reason)


def copies_of(write: Tree, table: Table, topology: Topology) -> Copies | None:
    """For a reference table: how its copies are changed alike. The last column of *write* becomes each row's text."""
    if table.sharded:
        return None
    returns = bool(write.returning_clause.exprs)
    write.returning_clause.exprs.append(target(expression(f"ROW({quote(alias_of(write))}.*)::text")))
    lock = f"LOCK TABLE {quote(topology.keyspace)}.{quote(table.name)} IN SHARE ROW EXCLUSIVE MODE"
    return Copies(lock, returns, True)


def shared_path(topology: Topology) -> str:
    return f"SET LOCAL search_path TO {quote(topology.keyspace)}, public;"


def own_star(node: Tree, alias: str) -> Tree:
    """``*`` as ``alias.*``: there is another item in FROM now."""
    if not is_a(node.res_target.val, "column_ref"):
        return node
    fields = node.res_target.val.column_ref.fields
    if len(fields) != 1 or kind(fields[0]) != "a_star":
        return node
    found = copied(node)
    found.res_target.val.CopyFrom(expression(f"{quote(alias)}.*"))
    return found
