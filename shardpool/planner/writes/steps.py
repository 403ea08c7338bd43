"""What a write becomes for the parameters of one call: statements for partitions and shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from postgast import pg_query_pb2 as pb

from shardpool.errors import CrossShardTransaction, UnknownTable
from shardpool.planner.ast import Tree, column_fields, is_a, unwrap, walk
from shardpool.planner.constants import UNKNOWN
from shardpool.planner.keyed import KeyedStatement, WrittenKey
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.refusals import refuse
from shardpool.planner.statement import Statement
from shardpool.topology.key import KeyValue
from shardpool.topology.shard_map import Partition, Placement, Topology
from shardpool.topology.tables import Table

#: The rows before and after a write, in RETURNING.
OLD_ROW, NEW_ROW = "shardpool_old", "shardpool_new"

if TYPE_CHECKING:
    from shardpool.planner.writes.apart import Apart


@dataclass(frozen=True)
class Step:
    """One statement on one shard, in psycopg2's spelling; for a partition, or (`placement` None) for the whole shard.

    `rows`: which of the rows to insert it has, by their places. `parameters` are more than the user's. `expected`: how
    many rows it must write, or they were changed meanwhile; `why` then fails with the reason, if there is one. `quiet`:
    what it did is no part of the answer.
    """

    shard: str
    sql: str
    placement: Placement | None = None
    rows: tuple[int, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    expected: int | None = None
    why: str = ""
    quiet: bool = False


@dataclass(frozen=True)
class Copies:
    """Each step changes a copy of the same tables, which `lock` locks first. `returns`: it has columns of the user's;
    `checked`: the last column, not one of them, is the text of each changed row."""

    lock: str
    returns: bool
    checked: bool


@dataclass(frozen=True)
class Steps:
    """The whole write, to be taken one after another. The rows of `guard`, if any, are reasons to refuse it; with
    `moment` the current time is a parameter, which the executor is to ask for. `before`: the rows that are changed, as
    they were found, in the order of the table's columns. `new`: only rows that were not there are written;
    `table`: rows of this table that may be there, each step those of its own partition; `changed`: tables whose rows
    are looked for."""

    steps: tuple[Step, ...]
    copies: Copies | None = None
    guard: Step | None = None
    moment: bool = False
    before: tuple[tuple[str | None, ...], ...] = ()
    new: bool = False
    table: str = ""
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """The rows of a query as PostgreSQL spells them, None for NULL, and the names of their types: "" if a user's."""

    types: tuple[str, ...]
    rows: Sequence[tuple[str | None, ...]]


class Staged(Protocol):
    """A write in two halves: `source` finds the rows; `steps` are what then writes them."""

    @property
    def source(self) -> CompiledQuery: ...

    @property
    def table(self) -> Table: ...

    @property
    def copies(self) -> Copies | None:
        """Set for a reference table."""

    def steps(self, found: Found, parameters: Mapping[str, Any], topology: Topology) -> Steps:
        """Return the steps. Raise `RoutingError` or `UnsupportedStatement`."""


class CompiledWrite(Protocol):
    """A write, analysed. An `Apart` has another in it."""

    def bind(self, parameters: Mapping[str, Any], topology: Topology) -> Steps | Staged | Apart:
        """Return the steps, or how to find them. Raise `RoutingError` or `UnsupportedStatement`."""


def alias_of(write: Tree) -> str:
    """Return what a statement calls the table that it writes."""
    return str(write.relation.alias.aliasname or write.relation.relname)


def target_of(statement: Statement, topology: Topology) -> Table:
    """Return the table that is written. Raise `UnknownTable`."""
    node = unwrap(statement.node).relation
    table = topology.tables.get(node.relname)
    if table is None or node.schemaname not in ("", topology.keyspace):
        raise UnknownTable(node.relname, topology.keyspace, list(topology.tables))
    return table


def modifying_ctes(statement: Statement) -> bool:
    """Whether there is a write besides the statement itself: one in a WITH."""
    return "with" in statement.numbered.lower() and any(
        isinstance(node, pb.InsertStmt | pb.UpdateStmt | pb.DeleteStmt | pb.MergeStmt)
        for node in walk(statement.node)
        if node is not unwrap(statement.node) and node != unwrap(statement.node)
    )


def in_partition(keyed: KeyedStatement, partition: Partition, topology: Topology) -> str:
    """Return the user's words for a partition. The search path has it: triggers and foreign keys may look there."""
    return topology.search_paths[partition.id] + topology.qualifiers[partition.id].join(keyed.template)


def check_assigned(rows: Iterable[WrittenKey], partition: Partition, parameters: Any, topology: Topology) -> None:
    """Raise if an assignment to the partition key takes a row of *partition* elsewhere."""
    for row in rows:
        owner = owner_of(row, parameters, topology)
        if owner.partition.id != partition.id:
            raise CrossShardTransaction(
                f"the new partition key belongs to partition {owner.partition.id}, and rows of {row.table!r} in "
                f"partition {partition.id} may match: delete and insert the row in one transaction"
            )


def owner_of(row: WrittenKey, parameters: Mapping[str, Any], topology: Topology) -> Placement:
    """Return where a written row belongs. Raise `UnsupportedStatement` if its key is not certain."""
    values = row.values(parameters)
    if UNKNOWN in values:
        raise refuse(row.code, row.table)
    key: Any = values[0] if len(values) == 1 else values
    found: KeyValue = key
    return topology.place(found, row.key_types)


def expressions(nodes: Iterable[Tree]) -> list[Tree]:
    """The values in a list of targets."""
    return [part for node in nodes for part in assigned_parts(node.res_target.val)]


def assigned_parts(value: Tree) -> list[Tree]:
    """The expressions of one assignment: none for DEFAULT, the whole row for one of ``(a, b) = ROW(..)``."""
    if is_a(value, "set_to_default"):
        return []
    if is_a(value, "multi_assign_ref"):
        source = value.multi_assign_ref.source
        if value.multi_assign_ref.colno > 1:
            return []
        parts = source.row_expr.args if is_a(source, "row_expr") else [source]
        return [part for part in parts if not is_a(part, "set_to_default")]
    return [value]


def returned(write: Tree) -> list[Tree]:
    """The expressions of RETURNING, but for columns of `OLD_ROW` and `NEW_ROW`."""
    clause = write.returning_clause
    if any(it.returning_option.value not in (OLD_ROW, NEW_ROW) for it in clause.options):
        raise refuse("SP132", "RETURNING WITH renames old and new rows")
    return [it for it in expressions(clause.exprs) if not (clause.options and _is_hidden(it))]


def _is_hidden(node: Tree) -> bool:
    inner = node.type_cast.arg if is_a(node, "type_cast") else node
    return is_a(inner, "column_ref") and column_fields(inner.column_ref)[0] in (OLD_ROW, NEW_ROW)
