"""Lists of keys: each partition is sent its own part of ``key IN (...)``.

A row of a partition has a key of that partition, so the other keys of the list can never equal it: the shorter list is
true, false or NULL for the same rows, wherever the expression stands. Elements whose value is not certain go to all
partitions; where no element is left, one that cannot be equal stands for the others, as an empty list is no SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, is_a, names, walk_flat
from shardpool.planner.constants import UNKNOWN, Constant, key_value, source_of
from shardpool.planner.plan import LIST_MARKER, ByShard, list_name
from shardpool.planner.rewrite import copied, rewritten
from shardpool.planner.scopes import Analysis, Item
from shardpool.planner.statement import Statement
from shardpool.topology.key import KeyType
from shardpool.topology.shard_map import Topology

#: Shorter lists are sent whole.
MIN_ELEMENTS = 10


@dataclass(frozen=True)
class KeyList:
    """A list of keys at the position `location`. `source` is the parameter that is the list, or the list's literals."""

    location: int
    key_type: KeyType
    source: str | tuple[object, ...]
    #: ``= ANY (...)`` takes an array, ``IN`` a list in parentheses.
    is_array: bool

    @property
    def name(self) -> str:
        """The parameter that stands for it in the partial query."""
        return f"{LIST_MARKER}{self.location}"


def find_lists(analysis: Analysis, statement: Statement, in_place: Collection[Item]) -> tuple[KeyList, ...]:
    """Return the lists that the partition keys of the occurrences *in_place* are compared with."""
    found: list[KeyList] = []
    for scope in analysis.scopes:
        for node in walk_flat(scope.select):
            if not isinstance(node, pb.A_Expr) or names(node.name) != ("=",) or node.location <= 0:
                continue
            if not is_a(node.lexpr, "column_ref"):
                continue
            source = _source(node, statement)
            member = None if source is None else scope.resolve(node.lexpr.column_ref)
            if source is None or member is None or member[0] not in in_place:
                continue
            table, column = member[0].table, member[0].column(member[1])
            if table is not None and column is not None and table.key == (column.name,):
                is_array = node.kind == pb.AEXPR_OP_ANY
                found.append(KeyList(node.location, table.key_types[0], source, is_array))
    return tuple(found)


def _source(node: Tree, statement: Statement) -> str | tuple[object, ...] | None:
    if node.kind == pb.AEXPR_OP_ANY and is_a(node.rexpr, "param_ref"):
        return str(statement.names[node.rexpr.param_ref.number - 1])
    if node.kind != pb.AEXPR_IN:
        return None
    items = list(node.rexpr.list.items)
    if len(items) == 1 and is_a(items[0], "param_ref"):
        name = str(statement.names[items[0].param_ref.number - 1])
        return name if name in statement.lists else None
    sources = [source_of(item, statement) if is_a(item, "a_const") else None for item in items]
    values = tuple(source.value for source in sources if isinstance(source, Constant))
    return values if len(values) == len(items) >= MIN_ELEMENTS else None


def with_parameters(select: Tree, lists: Sequence[KeyList], statement: Statement) -> tuple[Tree, Statement]:
    """Return a copy of a SelectStmt with a parameter in place of each list, and the statement that has those."""
    numbers = {it.location: len(statement.names) + place for place, it in enumerate(lists, start=1)}

    def replace(node: Tree) -> Tree | None:
        if not is_a(node, "a_expr") or node.a_expr.location not in numbers:
            return None
        copy = copied(node)
        parameter = pb.Node(param_ref=pb.ParamRef(number=numbers[node.a_expr.location]))
        if node.a_expr.kind == pb.AEXPR_IN:
            del copy.a_expr.rexpr.list.items[:]
            copy.a_expr.rexpr.list.items.append(parameter)
        else:
            copy.a_expr.rexpr.CopyFrom(parameter)
        return copy

    in_parentheses = frozenset(it.name for it in lists if not it.is_array)
    return rewritten(select, replace), statement.with_parameters([it.name for it in lists], in_parentheses)


def parts_of(
    lists: Sequence[KeyList], by_shard: ByShard, parameters: Mapping[str, Any], topology: Topology
) -> dict[str, Any]:
    """Return the parameters that the partial queries of the partitions need beside those of the statement."""
    if not lists:
        return {}
    partitions = {partition for found in by_shard.values() for partition in found}
    # What the columns of partial rows are like, a shard that has none of them is asked by its first partition.
    partitions |= {found[0] for found in topology.shard_map.by_shard().values()}
    found: dict[str, Any] = {}
    for key_list in lists:
        source = key_list.source
        elements = parameters.get(source) if isinstance(source, str) else source
        split = _split(elements, key_list, topology) if isinstance(elements, list | tuple) else None
        for partition in partitions:
            name = list_name(key_list.name, partition)
            found[name] = elements if split is None else split(partition.id)
    return found


def _split(elements: Sequence[Any], key_list: KeyList, topology: Topology) -> Callable[[int], Sequence[Any]] | None:
    if len(elements) < MIN_ELEMENTS:
        return None
    everywhere: list[Any] = []
    placed: dict[int, list[Any]] = {}
    for element in elements:
        value = key_value(element, key_list.key_type)
        if value is UNKNOWN:
            everywhere.append(element)
        else:
            placed.setdefault(topology.place(value, (key_list.key_type,)).partition.id, []).append(element)
    kind = list if key_list.is_array else tuple
    return lambda partition: kind([*placed.get(partition, ()), *everywhere] or elements[:1])
