"""`RoutedResult.one` gives what `Result.one` gives, whatever was done to the result before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData

from shardpool.executor.results import RoutedResult

NAMES = ("a", "b")


def routed(rows: list[tuple[Any, ...]]) -> RoutedResult:
    return RoutedResult([(name, 23, None, None, None, None, None) for name in NAMES], rows, len(rows))


def plain(rows: list[tuple[Any, ...]]) -> IteratorResult[Any]:
    return IteratorResult(SimpleResultMetaData(NAMES), iter(rows))


ACTIONS: dict[str, Callable[[Any], Any]] = {
    "one": lambda r: r.one(),
    "attribute": lambda r: r.one().b,
    "twice": lambda r: (r.one(), r.one()),
    "columns": lambda r: r.columns("b").one(),
    "columns kept": lambda r: (r.columns(1), r.one())[1],
    "unique": lambda r: r.unique().one(),
    "scalars": lambda r: r.scalars("b").one(),
    "scalars first": lambda r: (r.scalars().first(), r.one()),
    "mappings": lambda r: dict(r.mappings().one()),
    "fetchone": lambda r: (r.fetchone(), r.one()),
    "fetchmany": lambda r: (r.fetchmany(1), r.all()),
    "closed": lambda r: (r.close(), r.one()),
    "all": lambda r: r.all(),
    "scalar_one": lambda r: r.scalar_one(),
    "freeze": lambda r: r.freeze()().one(),
    "partitions": lambda r: list(r.partitions(1)),
    "keys": lambda r: (list(r.keys()), r.one()._mapping["a"]),
}


def outcome(action: Callable[[Any], Any], result: Any) -> Any:
    try:
        return action(result)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("rows", [[], [(1, 2)], [(1, 2), (1, 2)], [(1, 2), (3, 4)]], ids=len)
def test_as_sqlalchemy(name: str, rows: list[tuple[Any, ...]]) -> None:
    assert outcome(ACTIONS[name], routed(list(rows))) == outcome(ACTIONS[name], plain(list(rows)))
