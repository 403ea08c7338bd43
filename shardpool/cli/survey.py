"""Asking all shards the same at once; one that does not answer is an answer too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg2

from shardpool.cli.failures import describe
from shardpool.engines import Engines
from shardpool.errors import ExecutionError

T = TypeVar("T")

THREADS = 16


def ask_shards(
    engines: Engines, shards: Iterable[str], ask: Callable[[str, Any], T]
) -> tuple[dict[str, T], dict[str, str]]:
    """Call ``ask(shard, cursor)`` for all *shards*. Return the answers, and why the others have none."""
    names = sorted(shards)
    if not names:
        return {}, {}

    def visit(shard: str) -> tuple[T | None, str]:
        try:
            with engines.borrow(shard) as connection, connection.cursor() as cursor:
                return ask(shard, cursor), ""
        except (ExecutionError, psycopg2.Error) as error:
            return None, describe(error).message

    with ThreadPoolExecutor(min(THREADS, len(names)), "shardpool-survey") as executor:
        found = dict(zip(names, executor.map(visit, names), strict=True))
    answers = {shard: answer for shard, (answer, _) in found.items() if answer is not None}
    return answers, {shard: reason for shard, (answer, reason) in found.items() if answer is None}
