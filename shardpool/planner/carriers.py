"""Carriers: what proofs about partitions (`partitionwise`) speak of, and the checks that ask for nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, is_a, names, walk_flat
from shardpool.planner.clauses import outputs, windows
from shardpool.planner.functions import is_aggregate
from shardpool.planner.pins import Equalities
from shardpool.planner.scopes import Item, Member, Scope
from shardpool.topology.key import KeyType


class NotPartitionWise(Exception):
    """The query cannot be computed per partition; the message says why."""


@dataclass(frozen=True, eq=False)
class Carrier:
    """The item of a scope whose rows carry its partition. `roots` are the tables behind it, several for a UNION ALL.

    `keys` are the item's columns that are the roots' partition key; () if they do not come through.
    """

    roots: tuple[Item, ...]
    item: Item
    keys: tuple[str, ...]
    key_types: tuple[KeyType, ...]


#: A query's roots, and the places of its partition key among the output columns.
Rows = tuple[tuple[Item, ...], tuple[int, ...]]


def check_same_everywhere(select: Tree) -> None:
    """Without sharded tables a query is evaluated in each partition: its rows must not depend on their order."""
    if select.HasField("limit_count") or select.HasField("limit_offset") or select.sort_clause:
        raise NotPartitionWise("a subquery without sharded tables may take other rows on each shard")
    if any(node.WhichOneof("node") for node in select.distinct_clause) or any(True for _ in windows(select)):
        raise NotPartitionWise("a subquery without sharded tables may take other rows on each shard")
    for node in outputs(select):
        for call in walk_flat(node):
            if isinstance(call, pb.FuncCall):
                name = names(call.funcname)[-1]
                if is_aggregate(name) and name not in _ORDERLESS:
                    raise NotPartitionWise(f"{name}() may depend on the order of rows on each shard")


def check_compared(select: Tree, places: tuple[int, ...]) -> None:
    if not (select.op == pb.SETOP_UNION and select.all) and not places:
        raise NotPartitionWise("UNION, INTERSECT and EXCEPT without the partition key compare rows of all partitions")


#: Aggregates that are the same for any order of their rows.
_ORDERLESS = frozenset(
    ["count", "sum", "min", "max", "avg", "bool_and", "bool_or", "every", "bit_and", "bit_or", "bit_xor"]
)


def meant(node: Tree, targets: list[Tree], scope: Scope) -> Tree:
    """What GROUP BY groups by: an output column by place or (where there is no input column) by name."""
    if is_a(node, "a_const") and node.a_const.WhichOneof("val") == "ival":
        place = node.a_const.ival.ival
        return targets[place - 1].res_target.val if 1 <= place <= len(targets) else node
    if is_a(node, "column_ref") and scope.resolve(node.column_ref) is None and len(node.column_ref.fields) == 1:
        found = [
            target.res_target.val for target in targets if target.res_target.name == column_fields(node.column_ref)[0]
        ]
        return found[0] if len(found) == 1 else node
    return node


def member(node: Tree, scope: Scope) -> Member | None:
    return scope.resolve(node.column_ref) if is_a(node, "column_ref") else None


def same(equal: Equalities, member: Member | None, other: Member) -> bool:
    return member is not None and equal.same(member, other)
