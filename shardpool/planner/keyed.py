"""Statements for one partition: what `Router.execute` and `Router.connect` let through, and how rows are kept in place.

A partition's schema takes any row: PostgreSQL does not know the hash. So a statement that writes a partition key must
show it, as a parameter or literal, and each call checks that the key lies in the partition. Anything that could leave a
row elsewhere is refused with a code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.errors import CrossShardTransaction, KeyTypeMismatch, UnknownTable
from shardpool.planner.analyse import analyse
from shardpool.planner.ast import Tree, column_fields, is_a, kind, names, unwrap, walk
from shardpool.planner.constants import UNKNOWN, Constant, Source, key_value, source_of
from shardpool.planner.locks import locks_rows, row_locks
from shardpool.planner.often import OftenUsed, often_used
from shardpool.planner.refusals import refuse
from shardpool.planner.safety import check_session
from shardpool.planner.scopes import SYSTEM_SCHEMAS
from shardpool.planner.statement import Statement
from shardpool.planner.views import expanded, refuse_writes
from shardpool.planner.words import Template, in_partition, on_search_path
from shardpool.topology.key import KeyType, KeyValue, key_type_of
from shardpool.topology.shard_map import Partition, Topology
from shardpool.topology.tables import Table

_READS = ("select_stmt",)
_WRITES = ("insert_stmt", "update_stmt", "delete_stmt")
_TRANSACTION = ("transaction_stmt",)
#: What a connection on a partition must not do: definitions belong to all partitions.
_DEFINITIONS = (
    "create_stmt",
    "alter_table_stmt",
    "drop_stmt",
    "index_stmt",
    "rename_stmt",
    "create_table_as_stmt",
    "create_schema_stmt",
    "create_trig_stmt",
    "view_stmt",
    "alter_object_schema_stmt",
)


@dataclass(frozen=True)
class WrittenKey:
    """A row that the statement writes: where its partition key comes from, one source per key column."""

    table: str
    key_types: tuple[KeyType, ...]
    sources: tuple[Source, ...]
    code: str
    #: The longest text that each column stores as it is; varchar(n) drops spaces beyond n.
    lengths: tuple[int, ...]

    def values(self, parameters: Mapping[str, Any]) -> tuple[object, ...]:
        """The key as it will be stored, `UNKNOWN` for a part that is not certain."""
        found = []
        for source, key_type, length in zip(self.sources, self.key_types, self.lengths, strict=True):
            value = _value(source, key_type, parameters)
            found.append(UNKNOWN if type(value) is str and len(value) > length else value)
        return tuple(found)


@dataclass(frozen=True)
class KeyedStatement:
    """A statement for one partition.

    `template` joined by the partition's schema and a dot is its text. `needs_path`: only with the partition in the
    search path (writes may fire triggers, and functions may read tables). `reserved`: it is a write of a table with
    columns that are unique over all partitions, to be done as over all, if that is but this one (`writes.within`).
    `locks`: it locks rows that it reads; `locks_copies`: also of reference tables, against other locks.
    """

    template: Template
    needs_path: bool
    key_types: tuple[KeyType, ...]
    written: tuple[WrittenKey, ...]
    writes: bool
    reserved: bool = False
    locks: bool = False
    locks_copies: bool = False
    #: How a session prepares it, if it may.
    often: OftenUsed | None = None

    def prepared_for(self, parameters: Mapping[str, Any]) -> OftenUsed | None:
        """How a session prepares it, if it may with these parameters."""
        return self.often if self.often is not None and self.often.takes(parameters) else None

    def check_written(self, partition: Partition, parameters: Mapping[str, Any], topology: Topology) -> None:
        """Raise `CrossShardTransaction` if a row that is written belongs to another partition."""
        for row in self.written:
            values = row.values(parameters)
            if UNKNOWN in values:
                raise refuse(row.code, row.table)
            key: KeyValue = values[0] if len(values) == 1 else values
            owner = topology.place(key, row.key_types).partition
            if owner.id != partition.id:
                raise CrossShardTransaction(
                    f"a row for {row.table!r} has the partition key {key!r}, which belongs to partition {owner.id}, "
                    f"not to partition {partition.id} of this call"
                )


def types_of_key(key: KeyValue, topology: Topology) -> tuple[KeyType, ...]:
    """Return the key types that *key* has by its Python type. Raise `KeyTypeMismatch` if no table has such keys."""
    types = key_type_of(key)
    if topology.key_types and types not in topology.key_types:
        known = " or ".join(sorted("(" + ", ".join(t.value for t in found) + ")" for found in topology.key_types))
        raise KeyTypeMismatch(key, f"the type of a partition key of this keyspace: {known}")
    return types


def compile_keyed(statement: Statement, topology: Topology) -> KeyedStatement:
    """Analyse a statement of `Router.execute`. Raise `InvalidSQL`, `RoutingError` or `UnsupportedStatement`."""
    node = statement.node
    explained = node.explain_stmt.query if is_a(node, "explain_stmt") else node
    name = kind(explained)
    if name in _TRANSACTION:
        raise refuse("SP110", statement.numbered.split()[0].upper())
    if name not in _READS + _WRITES:
        raise refuse("SP111", name.removesuffix("_stmt").replace("_", " ").upper())
    _refuse_merge(statement, topology)
    return _compile(statement, topology, strict=True)


def compile_for_key(statement: Statement, topology: Topology) -> KeyedStatement:
    """Do as `compile_keyed`; writes that other partitions must know of, of columns that are unique, are only marked, or
    refused."""
    if kind(statement.node) in _WRITES:
        table = topology.tables.get(unwrap(statement.node).relation.relname)
        if table is not None and table.unique and _is_reserved(unwrap(statement.node), topology):
            return KeyedStatement((), True, table.key_types, (), True, reserved=True)
    _check_reserved(statement.node, topology)
    return compile_keyed(expanded(statement, topology), topology)


def _check_reserved(statement: Tree, topology: Topology) -> None:
    for node in walk(statement):
        if isinstance(node, pb.TruncateStmt):
            for name in (it.range_var.relname for it in node.relations):
                table = topology.tables.get(name)
                if name in topology.reservations or (table is not None and table.unique):
                    raise refuse("SP139", name)
        elif isinstance(node, pb.InsertStmt | pb.UpdateStmt | pb.DeleteStmt | pb.MergeStmt) and _is_reserved(
            node, topology
        ):
            raise refuse("SP139", node.relation.relname)


def _is_reserved(node: Tree, topology: Topology) -> bool:
    """Whether a write concerns reservations: it is of them, or of what they hold."""
    table = topology.tables.get(node.relation.relname)
    if table is None or not (table.unique or table.name in topology.reservations):
        return False
    return not isinstance(node, pb.UpdateStmt) or bool(reserved_columns(node, table)) or not table.unique


def reserved_columns(update: Tree, table: Table) -> set[str]:
    """The columns that an UPDATE, or ON CONFLICT, assigns and reservations hold: unique ones, and the key."""
    return {it.res_target.name for it in update.target_list} & {*dict(table.unique), *table.key}


def compile_on_connection(statement: Statement, topology: Topology) -> KeyedStatement | None:
    """Analyse a statement of `Router.connect`; None for one that needs no care (settings, temporary tables, ...)."""
    _check_reserved(statement.node, topology)
    refuse_writes(statement.node, topology)
    name = kind(statement.node)
    if name in _DEFINITIONS and not _temporary(statement.node):
        raise refuse("SP111", name.removesuffix("_stmt").replace("_", " ").upper())
    _refuse_merge(statement, topology)
    if name not in _READS + _WRITES:
        return None
    return _compile(statement, topology, strict=False)


def _refuse_merge(statement: Statement, topology: Topology) -> None:
    """Which keys MERGE writes is not looked at here: a row could land in a partition that is not its own."""
    for node in walk(statement.node):
        if isinstance(node, pb.MergeStmt) and node.relation.relname in topology.tables:
            raise refuse("SP111", "MERGE")


def _temporary(node: Tree) -> bool:
    if is_a(node, "create_stmt"):
        return bool(node.create_stmt.relation.relpersistence == "t")
    return is_a(node, "create_table_as_stmt") and node.create_table_as_stmt.into.rel.relpersistence == "t"


def _compile(statement: Statement, topology: Topology, strict: bool) -> KeyedStatement:
    tables = list(_tables(statement, topology, strict))
    types = {table.key_types for table in tables if table.sharded}
    if len(types) > 1:
        listed = ", ".join(sorted(table.name for table in tables if table.sharded))
        raise CrossShardTransaction(f"the tables {listed} have partition keys of different types: no key fits them all")
    rows = tuple(_written(statement, topology))
    writes = any(isinstance(node, pb.InsertStmt | pb.UpdateStmt | pb.DeleteStmt) for node in walk(statement.node))
    unknown = check_session(statement.node, topology) if strict else None
    locks = locks_rows(statement.node)
    copies = locks and _locks_copies(statement.node, tables, topology)
    needs_path = not (strict and is_a(statement.node, "select_stmt") and not writes and unknown is None)
    if needs_path:
        template = on_search_path(statement, topology)
    else:
        occurrences = analyse(statement.node.select_stmt, topology).occurrences
        template = in_partition(statement, topology, [item.node for item in occurrences])
    as_written = strict and writes and unknown is None and template == (statement.pyformat,)
    often = often_used(statement, topology) if as_written else None
    key_types = next(iter(types), ())
    return KeyedStatement(template, needs_path, key_types, rows, writes, False, locks, copies, often)


def _locks_copies(node: Tree, tables: list[Table], topology: Topology) -> bool:
    if not is_a(node, "select_stmt") or node.select_stmt.HasField("with_clause"):
        return locks_rows(node, exclusively=True) and not all(table.sharded for table in tables)
    locks = row_locks(node.select_stmt, analyse(node.select_stmt, topology))
    return locks is not None and bool(locks.exclusive_reference)


def _tables(statement: Statement, topology: Topology, strict: bool) -> Iterator[Table]:
    nodes = walk(statement.node)
    ctes = {node.ctename for node in nodes if isinstance(node, pb.CommonTableExpr)}
    # FOR UPDATE OF has aliases.
    locked = {it.range_var.location for node in nodes if isinstance(node, pb.LockingClause) for it in node.locked_rels}
    for node in nodes:
        if not isinstance(node, pb.RangeVar) or (node.relname in ctes and not node.schemaname):
            continue
        if node.location in locked:
            continue
        table = topology.tables.get(node.relname)
        if table is not None and node.schemaname in ("", topology.keyspace):
            yield table
        elif strict and node.schemaname not in SYSTEM_SCHEMAS and not node.relname.startswith("pg_"):
            raise UnknownTable(node.relname, topology.keyspace, list(topology.tables))


def _written(statement: Statement, topology: Topology) -> Iterator[WrittenKey]:
    for node in walk(statement.node):
        if not isinstance(node, pb.InsertStmt | pb.UpdateStmt | pb.DeleteStmt):
            continue
        table = topology.tables.get(node.relation.relname)
        if table is None:
            continue
        if not table.sharded:
            raise refuse("SP112", table.name)
        if isinstance(node, pb.InsertStmt):
            yield from inserted_keys(node, table, statement, topology)
            yield from updated_keys(node, table, statement)
        elif isinstance(node, pb.UpdateStmt):
            yield from assigned_keys(node.target_list, table, statement)


def updated_keys(insert: Tree, table: Table, statement: Statement) -> Iterator[WrittenKey]:
    """As `assigned_keys`, for ON CONFLICT DO UPDATE: the key of the row that was to be inserted belongs here, too."""
    changes = insert.on_conflict_clause.target_list
    values = {node.res_target.name: _assigned(node.res_target.val) for node in changes}
    found = [values.get(key, pb.Node()) for key in table.key]
    if [column_fields(value.column_ref) for value in found] != [("excluded", key) for key in table.key]:
        yield from assigned_keys(changes, table, statement)


def assigned_keys(changes: Any, table: Table, statement: Statement) -> Iterator[WrittenKey]:
    """An assignment to the key may only repeat a key of the same partition; for composite keys all parts must show."""
    assigned = {node.res_target.name: _assigned(node.res_target.val) for node in changes}
    if not assigned.keys() & set(table.key):
        return
    sources = [source_of(assigned[key], statement) if key in assigned else None for key in table.key]
    if any(source is None for source in sources):
        raise refuse("SP114", table.name)
    yield _written_key(table, sources, "SP114")


def _assigned(value: Tree) -> Tree:
    """What one column is assigned, also by ``(a, b) = (1, 2)``."""
    if not is_a(value, "multi_assign_ref") or not is_a(value.multi_assign_ref.source, "row_expr"):
        return value
    args = value.multi_assign_ref.source.row_expr.args
    return args[value.multi_assign_ref.colno - 1] if len(args) == value.multi_assign_ref.ncolumns else value


def inserted_columns(insert: Tree, table: Table) -> list[str]:
    """Return the names of the columns that an INSERT fills, in its order."""
    return [node.res_target.name for node in insert.cols] or [column.name for column in table.columns]


def inserted_keys(insert: Tree, table: Table, statement: Statement, topology: Topology) -> Iterator[WrittenKey]:
    columns = inserted_columns(insert, table)
    if not is_a(insert.select_stmt, "select_stmt") or not set(table.key) <= set(columns):
        raise refuse("SP113", table.name)
    places = [columns.index(key) for key in table.key]
    select = insert.select_stmt.select_stmt
    # A CTE may have the name of a table, and other rows.
    if not select.values_lists and not insert.HasField("with_clause") and _copies_keys(select, places, table, topology):
        return
    for row in _rows(select):
        sources = [source_of(row[place], statement) if place < len(row) else None for place in places]
        if any(source is None for source in sources):
            raise refuse("SP113", table.name)
        yield _written_key(table, sources, "SP113")


def _written_key(table: Table, sources: list[Source | None], code: str) -> WrittenKey:
    known = tuple(source for source in sources if source is not None)
    columns = [table.column(name) for name in table.key]
    lengths = tuple(sys.maxsize if column is None else text_length(column.type) for column in columns)
    return WrittenKey(table.name, table.key_types, known, code, lengths)


def text_length(sql_type: str) -> int:
    """The n of ``character varying(n)``."""
    bound = sql_type.partition("(")[2].partition(")")[0]
    return int(bound) if sql_type.startswith("character varying(") else sys.maxsize


def _rows(select: Tree) -> Iterator[list[Tree]]:
    """The rows of VALUES, or of ``SELECT p0::int, ... FROM (VALUES ...) AS v(p0, ...)`` as SQLAlchemy writes it."""
    if select.values_lists:
        for node in select.values_lists:
            yield list(node.list.items)
        return
    values, place_of = _values_item(select)
    if values is None:
        yield []
        return
    places = [_place(node.res_target.val, place_of) for node in select.target_list]
    for node in values:
        row = list(node.list.items)
        yield [row[place] if place is not None else pb.Node() for place in places]


def _values_item(select: Tree) -> tuple[Any, dict[str, int]]:
    if len(select.from_clause) == 1 and is_a(select.from_clause[0], "range_subselect"):
        item = select.from_clause[0].range_subselect
        inner = item.subquery.select_stmt
        if inner.values_lists:
            return inner.values_lists, {name: place for place, name in enumerate(names(item.alias.colnames))}
    return None, {}


def _place(node: Tree, place_of: dict[str, int]) -> int | None:
    while is_a(node, "type_cast") and not node.type_cast.type_name.array_bounds:
        node = node.type_cast.arg
    return place_of.get(column_fields(node.column_ref)[-1]) if is_a(node, "column_ref") else None


def _copies_keys(select: Tree, places: list[int], table: Table, topology: Topology) -> bool:
    """INSERT .. SELECT of the key columns, in order, of one sharded table of the same partition."""
    if len(select.from_clause) != 1 or not is_a(select.from_clause[0], "range_var") or select.op != pb.SETOP_NONE:
        return False
    node = select.from_clause[0].range_var
    source = topology.tables.get(node.relname)
    if source is None or source.key_types != table.key_types or node.alias.colnames or select.HasField("with_clause"):
        return False
    picked = [select.target_list[place].res_target.val if place < len(select.target_list) else None for place in places]
    return all(
        value is not None and is_a(value, "column_ref") and column_fields(value.column_ref)[-1] == key
        for value, key in zip(picked, source.key, strict=True)
    )


def _value(source: Source, key_type: KeyType, parameters: Mapping[str, Any]) -> object:
    if isinstance(source, Constant):
        return key_value(source.value, key_type)
    return UNKNOWN if source.many else key_value(parameters.get(source.name), key_type)
