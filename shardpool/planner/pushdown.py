"""The rung *pushdown*: a partial query per partition, and a merge query.

It is sound because the rows of FROM and WHERE are the union of each partition's (`partitionwise`), and because
everything evaluated per partition is repeatable (`safety`). The shapes, cheapest first: whole rows, partial groups,
shipped rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from postgast import pg_query_pb2 as pb

from shardpool.planner.aggregates import NotPartial
from shardpool.planner.ast import Tree, UnfaithfulText, is_a, to_sql, walk
from shardpool.planner.carriers import NotPartitionWise
from shardpool.planner.clauses import is_grouped, outputs, windows
from shardpool.planner.groups import partial_groups
from shardpool.planner.lists import KeyList, find_lists, with_parameters
from shardpool.planner.partitionwise import PartitionWise
from shardpool.planner.plan import APPENDED_ROWS, PARTIAL_TABLE, SCHEMA_MARKER, Concatenation, MergeQuery, rows_of
from shardpool.planner.rewrite import copied, placed, target, without
from shardpool.planner.rows import first_rows, shipped_rows, whole_rows
from shardpool.planner.scopes import STAGE_SCHEMA, Analysis, Item
from shardpool.planner.shape import Level, Refused
from shardpool.planner.statement import Statement, to_pyformat
from shardpool.topology.shard_map import Topology


@dataclass(frozen=True)
class Pushdown:
    """The part of a plan that does not depend on parameters and placements. Partitions are chosen by `roots`."""

    partial: str
    merge: Concatenation | MergeQuery
    roots: tuple[Item, ...]
    #: Names of the parameters in LIMIT and OFFSET.
    limits: tuple[str, ...] = ()
    #: The table in which the merge query finds the partial rows.
    table: str = PARTIAL_TABLE
    #: The query of the one table whose rows are appended before they are joined, if that is better.
    appended: str = ""
    #: The merge query reads reference tables too.
    reads_tables: bool = False
    #: Lists of keys of which each partition is sent its part.
    lists: tuple[KeyList, ...] = ()
    #: There is a LIMIT: one PostgreSQL might not look at all rows.
    limited: bool = False


@dataclass(frozen=True)
class Queries:
    """A pushdown as trees: the tables whose partitions count, the partial query, and the merge query if the partial
    rows alone, in `partial_table`, are not the result."""

    roots: tuple[Item, ...]
    partial: Tree
    merge: Tree | None
    partial_table: str


def plan_pushdown(select: Tree, analysis: Analysis, statement: Statement, topology: Topology) -> Pushdown | str:
    """Return the partial and the merge query, or the reason why there is no such plan."""
    found = queries(select, analysis, statement, topology)
    return found if isinstance(found, str) else written(found, select, analysis, statement, topology, {})


def queries(
    select: Tree,
    analysis: Analysis,
    statement: Statement,
    topology: Topology,
    spread: Collection[Item] = (),
    divided: Mapping[Item, str] | None = None,
    partial_table: str = PARTIAL_TABLE,
) -> Queries | str:
    """Return the partial and the merge query as trees, or the reason why there are none.

    The occurrences in *spread* are on every shard; those in *divided* too, but a share on each, by the column given.
    """
    proof = PartitionWise(analysis, statement, topology, spread, divided)
    try:
        return Queries(*_queries(select, analysis, proof, partial_table), partial_table)
    except (Refused, NotPartitionWise, NotPartial) as reason:
        return str(reason)


def lie_together(
    select: Tree, analysis: Analysis, statement: Statement, topology: Topology, spread: Collection[Item]
) -> bool:
    """Whether the rows of FROM and WHERE are partition-wise with *spread*; `queries` asks for more."""
    proof = PartitionWise(analysis, statement, topology, spread)
    try:
        return bool(proof.union(select) if select.op != pb.SETOP_NONE else proof.rows(analysis.scope_of(select)))
    except NotPartitionWise:
        return False


def written(
    found: Queries,
    select: Tree,
    analysis: Analysis,
    statement: Statement,
    topology: Topology,
    spread: Mapping[Item, str],
    dropped: Sequence[Tree] = (),
) -> Pushdown | str:
    """Return the plan of *found*, or the reason why it cannot be written down.

    The occurrences in *spread* are read from temporary tables of these names; the conditions *dropped* hold for all
    rows there.
    """
    alone = None if select.locking_clause else _alone(analysis, spread)
    in_place = _sharded(analysis) - spread.keys()
    lists = () if alone is not None else find_lists(analysis, statement, in_place)

    def text(tree: Tree, statement: Statement) -> str:
        return placed_text(tree, analysis, statement, topology, spread, alone, dropped)

    try:
        merge, partial_table = found.merge, found.partial_table
        if merge is None:
            combined: Concatenation | MergeQuery = _concatenation(select, statement)
        else:
            combined = MergeQuery(text(merge, statement))
        partial = text(*with_parameters(found.partial, lists, statement))
        return Pushdown(
            f"SELECT * FROM ({partial}) AS locked" if select.locking_clause else partial,
            combined,
            found.roots,
            tuple(_limit_parameters(select, statement)),
            partial_table,
            rows_of(alone.table, alone.table.columns) if alone is not None and alone.table is not None else "",
            merge is not None and _reads_tables(merge, partial_table),
            lists,
            select.HasField("limit_count"),
        )
    except Refused as reason:
        return str(reason)
    except UnfaithfulText:
        return "the generated text could not be proven faithful"


def _reads_tables(merge: Tree, partial_table: str) -> bool:
    tables = [node for node in walk(merge) if isinstance(node, pb.RangeVar) and node.relname != partial_table]
    return any(node.schemaname != STAGE_SCHEMA for node in tables)


def placed_text(
    select: Tree,
    analysis: Analysis,
    statement: Statement,
    topology: Topology,
    spread: Mapping[Item, str],
    appended: Item | None = None,
    dropped: Sequence[Tree] = (),
) -> str:
    """Return a query's text with all its tables where they are read. Raise `UnfaithfulText`."""
    places = _places(analysis, spread)
    if appended is not None:
        schema, _, name = APPENDED_ROWS.partition(".")
        places[appended.node.location] = (schema, name)
    tree = without(select, dropped) if dropped else select
    return to_pyformat(to_sql(placed(tree, places, topology.keyspace)), statement)


def _alone(analysis: Analysis, spread: Mapping[Item, str]) -> Item | None:
    """The only sharded table, if it is joined: the others are then read once per shard, not once per partition."""
    in_place = list(_sharded(analysis) - spread.keys())
    joined = len(in_place) == 1 and len(in_place[0].scope.items) > 1 and not in_place[0].sampled
    return in_place[0] if joined else None


def _sharded(analysis: Analysis) -> frozenset[Item]:
    return frozenset(item for item in analysis.occurrences if item.table is not None and item.table.sharded)


def _places(analysis: Analysis, spread: Mapping[Item, str]) -> dict[int, tuple[str, str]]:
    places: dict[int, tuple[str, str]] = {}
    for item in analysis.occurrences:
        assert item.table is not None
        if item in spread:
            places[item.node.location] = (STAGE_SCHEMA, spread[item])
        elif item.table.sharded:
            places[item.node.location] = (SCHEMA_MARKER, item.table.name)
    return places


#: Of `Queries` all but the table's name.
_Queries = tuple[tuple[Item, ...], Tree, Tree | None]


def _queries(select: Tree, analysis: Analysis, proof: PartitionWise, partial_table: str) -> _Queries:
    if analysis.recursions and select.HasField("limit_count") and not select.sort_clause:
        raise Refused("LIMIT may end a recursion that has no end")
    if select.op != pb.SETOP_NONE:
        return _union(select, analysis, proof, partial_table)
    scope = analysis.scope_of(select)
    carriers = proof.rows(scope)
    if not carriers:
        raise NotPartitionWise("no sharded table in FROM")
    level = Level(select, scope, analysis, proof, carriers, partial_table)
    level.check_columns()
    reasons = []
    # PostgreSQL locks rows of plain queries only.
    for shape in (_whole,) if select.locking_clause else (_whole, _distinct, _groups, shipped_rows):
        try:
            return carriers[0].roots, *shape(level)
        except (NotPartial, NotPartitionWise, Refused) as reason:
            reasons.append(reason)
    raise reasons[-1]


def _whole(level: Level) -> tuple[Tree, Tree | None]:
    for node in outputs(level.select):
        level.proof.expression(node, level.scope, level.carriers)
    level.proof.check_whole(level.scope, level.carriers[0])
    return whole_rows(level) if level.select.sort_clause else (first_rows(level.select), None)


def _distinct(level: Level) -> tuple[Tree, Tree]:
    """DISTINCT, or DISTINCT ON, in each partition, and again over all."""
    select = level.select
    if not select.distinct_clause or is_grouped(select) or any(True for _ in windows(select)):
        raise Refused("no DISTINCT of plain rows")
    takes_first = any(node.WhichOneof("node") for node in select.distinct_clause)
    if takes_first and select.limit_option == pb.LIMIT_OPTION_WITH_TIES:
        raise Refused("DISTINCT ON and WITH TIES")
    return whole_rows(level)


def _groups(level: Level) -> tuple[Tree, Tree]:
    if not is_grouped(level.select):
        raise Refused("no groups")
    return partial_groups(level)


def _union(select: Tree, analysis: Analysis, proof: PartitionWise, partial_table: str) -> _Queries:
    """UNION ALL of partition-wise queries; its ORDER BY can only name output columns."""
    rows = proof.union(select)
    if rows is None:
        raise NotPartitionWise("no sharded table in FROM")
    if analysis.uncertain is not None:
        raise Refused(f"{analysis.uncertain} is not certain to be a column")
    if not select.sort_clause:
        return rows[0], first_rows(select), None
    first = select
    while first.op != pb.SETOP_NONE:
        first = first.larg
    names = analysis.scope_of(first).columns
    if names is None or len(set(names)) < len(names):
        raise Refused("the names of the output columns are not certain")
    partial = first_rows(select)
    if not partial.HasField("limit_count"):
        del partial.sort_clause[:]
    merge = copied(select)
    for field in ("larg", "rarg", "with_clause"):
        merge.ClearField(field)
    merge.op, merge.all = pb.SETOP_NONE, False
    merge.from_clause.append(pb.Node(range_var=pb.RangeVar(relname=partial_table, inh=True, relpersistence="p")))
    merge.target_list.append(target(pb.Node(column_ref=pb.ColumnRef(fields=[pb.Node(a_star=pb.A_Star())]))))
    return rows[0], partial, merge


def _concatenation(select: Tree, statement: Statement) -> Concatenation:
    def count(name: str) -> int | str | None:
        if not select.HasField(name):
            return None
        node = getattr(select, name)
        if is_a(node, "param_ref"):
            return str(statement.names[node.param_ref.number - 1])
        if node.a_const.isnull:
            return None
        if node.a_const.WhichOneof("val") != "ival" or node.a_const.ival.ival < 0:
            raise Refused("LIMIT or OFFSET is not a plain number")
        return int(node.a_const.ival.ival)

    return Concatenation(count("limit_count"), count("limit_offset"))


def _limit_parameters(select: Tree, statement: Statement) -> Iterator[str]:
    for name in ("limit_count", "limit_offset"):
        if select.HasField(name) and is_a(getattr(select, name), "param_ref"):
            yield statement.names[getattr(select, name).param_ref.number - 1]
