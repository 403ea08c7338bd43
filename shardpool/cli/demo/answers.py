"""The same question to the cluster and to the one plain PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from shardpool.cli.demo.data import query_text
from shardpool.cli.demo.plain import PlainPostgres
from shardpool.router import Router

#: What the demo asks, and what it is about.
QUERIES = {
    1: "pricing summary",
    3: "unshipped orders",
    6: "forecast of revenue",
    12: "shipping modes",
    13: "customers by orders",
    14: "effect of promotions",
    22: "sales opportunities",
}


def compare_answers(router: Router, plain: PlainPostgres) -> list[dict[str, Any]]:
    """Run all `QUERIES` on both; per query: rows, whether equal, milliseconds of each, and the plan's rung."""
    return [_compare(router, plain, number, about) for number, about in QUERIES.items()]


def _compare(router: Router, plain: PlainPostgres, number: int, about: str) -> dict[str, Any]:
    sql = query_text(number)
    ours, seconds = timed(lambda: [tuple(row) for row in router.query(sql)])
    theirs, plain_seconds = timed(lambda: plain.query(sql))
    return {
        "query": f"Q{number}",
        "about": about,
        "route": router.explain(sql).rung,
        "rows": len(ours),
        "equal": same_rows(ours, theirs),
        "ms": round(seconds * 1000, 2),
        "plain_ms": round(plain_seconds * 1000, 2),
    }


def same_rows(ours: Sequence[tuple[Any, ...]], theirs: Sequence[tuple[Any, ...]]) -> bool:
    """Whether both are the same rows, to the last digit; rows that ORDER BY leaves open may change places."""
    return sorted(map(repr, ours)) == sorted(map(repr, theirs))


def timed(ask: Callable[[], list[Any]]) -> tuple[list[Any], float]:
    """Return an answer and its seconds."""
    started = time.perf_counter()
    found = ask()
    return found, time.perf_counter() - started
