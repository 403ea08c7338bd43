"""Estimates: how many rows and bytes a table's needed part has. They choose between plans, never what is answered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, names, unwrap


@dataclass(frozen=True)
class Size:
    """A table over all its partitions, as the shards' statistics say."""

    rows: float
    bytes: float


#: Of a table that nothing is known about.
UNKNOWN_SIZE = Size(1000.0, 100_000.0)


class Statistics:
    """What is known of the tables' sizes; here nothing. The executor asks the shards."""

    def size(self, table: str) -> Size:
        """Return the size of a table."""
        return UNKNOWN_SIZE

    def rows(self, select: str) -> float | None:
        """Return how many rows a query is guessed to give over all partitions, None if nobody was asked."""
        return None


def selectivity(conditions: Iterable[Tree]) -> float:
    """Return the share of rows that are guessed to pass all *conditions*, as PostgreSQL guesses without statistics."""
    share = 1.0
    for condition in conditions:
        share *= _share(condition)
    return max(share, 1e-6)


def _share(condition: Tree) -> float:
    value = unwrap(condition)
    match value:
        case pb.BoolExpr():
            parts = [_share(part) for part in value.args]
            if value.boolop == pb.NOT_EXPR:
                return 1 - parts[0]
            if value.boolop == pb.OR_EXPR:
                return min(1.0, sum(parts))
            return selectivity(value.args)
        case pb.A_Expr():
            return _of_operator(value)
        case pb.SubLink():
            return 0.3
    return 0.5


def _of_operator(value: Tree) -> float:
    operator = (names(value.name) or ("",))[-1]
    match value.kind:
        case pb.AEXPR_IN:
            return min(0.5, 0.02 * len(value.rexpr.list.items)) if operator == "=" else 0.9
        case pb.AEXPR_LIKE | pb.AEXPR_ILIKE | pb.AEXPR_SIMILAR:
            return 0.9 if operator.startswith("!") else 0.05
        case pb.AEXPR_BETWEEN | pb.AEXPR_BETWEEN_SYM:
            return 0.1
    return {"=": 0.02, "<>": 0.98}.get(operator, 0.33)
