"""Conditions and equalities that hold for a table's needed rows, by the facts of its query."""

from __future__ import annotations

from collections.abc import Iterator

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, is_a, names, walk
from shardpool.planner.clauses import only_rows
from shardpool.planner.rewrite import column, rewritten
from shardpool.planner.safety import not_repeatable
from shardpool.planner.scopes import Fact, Item, Member
from shardpool.topology.shard_map import Topology

_EXISTENCE = (pb.EXISTS_SUBLINK, pb.ANY_SUBLINK, pb.ALL_SUBLINK)


def removes(fact: Fact, item: Item) -> bool:
    return fact.holds_for(item) and item.outer <= fact.outer


def equalities(item: Item) -> list[tuple[str, Member]]:
    """Pairs of a column of *item* and a column of another item that its needed rows equal."""
    found = []
    for fact in item.scope.facts:
        if not removes(fact, item):
            continue
        for own, other in sides(fact, item):
            if own[0] is item and named_so(item, own[1]):
                found.append((own[1], other))
    return found


def sides(fact: Fact, item: Item) -> list[tuple[Member, Member]]:
    pair = fact.equality
    if pair is None:
        node = fact.condition
        if not is_a(node, "a_expr") or node.a_expr.kind != pb.AEXPR_OP or names(node.a_expr.name) != ("=",):
            return []
        sides = (node.a_expr.lexpr, node.a_expr.rexpr)
        if not all(is_a(side, "column_ref") for side in sides):
            return []
        left, right = (item.scope.resolve(side.column_ref, fact.visible) for side in sides)
        if left is None or right is None:
            return []
        pair = (left, right)
    return [pair, (pair[1], pair[0])]


def finds_one(own: Member, other: Member) -> bool:
    """Whether a row finds at most one of another item by this equality: that one's primary key."""
    (item, name), (found, key) = own, other
    columns = item.column(name), found.column(key)
    if found.table is None or found.table.sharded or found.sampled or columns[0] is None or columns[1] is None:
        return False
    inner = not item.outer and not found.outer and item.scope is found.scope
    alike = columns[0].type == columns[1].type and columns[0].collation == columns[1].collation
    return inner and alike and found.table.primary_key == (columns[1].name,)


def looked_up_by(item: Item) -> tuple[str, ...]:
    """The columns by which a subquery looks its rows up for each row of the query around it."""
    found = [own for own, other in equalities(item) if other[0].scope is not item.scope]
    return tuple(sorted(set(found)))


def existence_checks(select: Tree, topology: Topology) -> list[Tree]:
    """Return the subqueries of which only counts whether there is a row that fits: duplicates do not matter."""
    links = (node for node in walk(select) if isinstance(node, pb.SubLink) and node.sub_link_type in _EXISTENCE)
    bodies = (link.subselect.select_stmt for link in links)
    return [body for body in bodies if only_rows(body) and all(_is_steady(it, topology) for it in walk(body))]


def _is_steady(node: Tree, topology: Topology) -> bool:
    """Functions that may give another value for each duplicate are not."""
    if isinstance(node, pb.FuncCall):
        return not_repeatable(node, topology) is None
    return not isinstance(node, pb.SubLink)


def conjuncts(node: Tree) -> Iterator[Tree]:
    if is_a(node, "bool_expr") and node.bool_expr.boolop == pb.AND_EXPR:
        for part in node.bool_expr.args:
            yield from conjuncts(part)
    else:
        yield node


def named_so(item: Item, name: str) -> bool:
    column = item.column(name)
    return item.table is not None and column is not None and column.name == name


def bare(condition: Tree) -> Tree:
    def replace(node: Tree) -> Tree | None:
        if is_a(node, "select_stmt"):
            return node
        return column(column_fields(node.column_ref)[-1]) if is_a(node, "column_ref") else None

    return rewritten(condition, replace)


def joined(operator: int, parts: list[Tree]) -> Tree:
    return parts[0] if len(parts) == 1 else pb.Node(bool_expr=pb.BoolExpr(boolop=operator, args=parts))
