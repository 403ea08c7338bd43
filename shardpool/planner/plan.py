"""Plans: what the executor carries out. Values only; all text is in psycopg2's spelling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shardpool.topology.names import quote
from shardpool.topology.shard_map import Partition, Placement
from shardpool.topology.tables import Column, Table

#: Stands for a partition's schema in generated text until the executor names one.
SCHEMA_MARKER = "shardpool_partition_schema"
#: Stands for the rows of one table in all of a shard's partitions, in the same way.
APPENDED_ROWS = f"{SCHEMA_MARKER}.shardpool_appended"
#: Begins the name of a parameter that is the part of a list of keys that a partition is sent.
LIST_MARKER = "shardpool_list_"
#: Before a statement that may write, though it must not.
READ_ONLY = "SET TRANSACTION READ ONLY; "
#: The temporary table of partial rows that a merge query reads.
PARTIAL_TABLE = "shardpool_partial"

ByShard = Mapping[str, tuple[Partition, ...]]


@dataclass(frozen=True)
class Reason:
    """Why a rung of the ladder has no plan."""

    rung: str
    text: str


@dataclass(frozen=True)
class SinglePlan:
    """The user's words, on one partition.

    With `empty` its conditions contradict each other, and there are no rows: any one partition tells the columns.
    """

    placement: Placement
    sql: str
    reasons: tuple[Reason, ...] = ()
    empty: bool = False


@dataclass(frozen=True)
class ReferencePlan:
    """The user's words, on any shard."""

    sql: str
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class Concatenation:
    """Partial rows are the result, in any order; LIMIT and OFFSET are constants or names of parameters."""

    limit: int | str | None = None
    offset: int | str | None = None


@dataclass(frozen=True)
class MergeQuery:
    """A query on the merge node, over the temporary tables that were made before."""

    sql: str


@dataclass(frozen=True)
class PushdownPlan:
    """A partial query per partition, with `SCHEMA_MARKER` for the schema; one UNION ALL statement per shard.

    With *appended*, a query for the rows of one table, the partial query is one per shard and reads those of all its
    partitions. A merge query reads the partial rows as the temporary table `table`.
    """

    partial: str
    by_shard: ByShard
    merge: Concatenation | MergeQuery
    pruned: bool
    reasons: tuple[Reason, ...] = ()
    table: str = PARTIAL_TABLE
    appended: str = ""
    #: The current time is a parameter, which the executor is to ask for.
    moment: bool = False
    #: The merge query reads reference tables too.
    reads_tables: bool = False
    #: Parameters of the partitions beside the statement's own.
    lists: Mapping[str, Any] = field(default_factory=dict)
    #: There is a LIMIT: one PostgreSQL might not look at all rows.
    limited: bool = False
    #: The partial queries lock rows.
    locks: bool = False


@dataclass(frozen=True)
class Relation:
    """The needed rows of a sharded table, as the temporary table `name` of the merge node.

    `select` has `SCHEMA_MARKER`; with `appended` it is one per shard, as in a `PushdownPlan`. By the lists of columns
    in `indexes` rows will be looked up. With `spread` all shards get a copy; with `divided_by`, a column, each of the
    shards in `targets` gets its share and no other has any.
    """

    name: str
    table: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...]
    select: str
    by_shard: ByShard
    appended: str = ""
    spread: bool = False
    divided_by: str = ""
    targets: tuple[str, ...] = ()
    #: Columns that the statement needs to be declared NOT NULL.
    not_null: tuple[str, ...] = ()


@dataclass(frozen=True)
class PartialRows:
    """The rows of a partial query as the temporary table `name` of the merge node, with columns c1, c2, ..."""

    name: str
    columns: int
    select: str
    by_shard: ByShard
    appended: str = ""
    spread: bool = False


@dataclass(frozen=True)
class Computed:
    """The rows of a query on the merge node as the temporary table `name` there, with columns c1, c2, ..."""

    name: str
    columns: int
    sql: str
    spread: bool = False


Stage = Relation | PartialRows | Computed


@dataclass(frozen=True)
class GatherPlan:
    """Temporary tables of the user's names on the merge node, and the user's words over them."""

    relations: tuple[Relation, ...]
    sql: str
    pruned: bool
    reasons: tuple[Reason, ...] = ()
    moment: bool = False


@dataclass(frozen=True)
class StagesPlan:
    """Temporary tables made one after the other, and what reads them: a pushdown, or a query on the merge node."""

    stages: tuple[Stage, ...]
    then: PushdownPlan | MergeQuery
    reasons: tuple[Reason, ...] = ()
    moment: bool = False
    #: Parameters of the partitions beside the statement's own.
    lists: Mapping[str, Any] = field(default_factory=dict)


Plan = SinglePlan | ReferencePlan | PushdownPlan | StagesPlan | GatherPlan


def rows_of(table: Table, columns: Iterable[Column]) -> str:
    """Return the query for all of a table's rows in one partition."""
    names = ", ".join(quote(column.name) for column in columns)
    return f"SELECT {names} FROM {SCHEMA_MARKER}.{quote(table.name)}".replace("%", "%%")


def list_name(text: str, partition: Partition) -> str:
    """Return *text* with the names of a partition's parts of lists."""
    return text.replace(LIST_MARKER, f"{LIST_MARKER}p{partition.id}_")


def union_all(partial: str, partitions: tuple[Partition, ...], appended: str = "") -> str:
    """Return one statement that runs *partial* in each of a shard's partitions, or over the *appended* rows of all."""
    selects = [
        list_name((appended or partial).replace(SCHEMA_MARKER, quote(partition.schema)), partition)
        for partition in partitions
    ]
    together = selects[0] if len(selects) == 1 else " UNION ALL ".join(f"({select})" for select in selects)
    return partial.replace(APPENDED_ROWS, f"({together})") if appended else together


def rung_of(plan: Plan) -> str:
    """Return the name under which `explain` shows the plan's rung."""
    match plan:
        case SinglePlan():
            return "single"
        case ReferencePlan():
            return "reference"
        case PushdownPlan():
            return "some: pushdown" if plan.pruned else "pushdown"
        case StagesPlan():
            return "stages"
        case GatherPlan():
            return "some: gather" if plan.pruned else "gather"
