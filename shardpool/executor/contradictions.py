"""Contradictions: a query whose conditions exclude each other is asked once, for the columns; then no shard is asked.

The one partition that is asked proves that the statement is valid, and tells the names and types of its columns. Both
may depend on the parameters, so it is asked again for others.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from shardpool.executor.results import RoutedResult
from shardpool.planner.ladder import CompiledQuery
from shardpool.planner.plan import Plan, SinglePlan

#: Sets of parameters that are remembered of one statement.
REMEMBERED = 50
#: Values that are spelled alike only if they are alike.
_PLAIN = (str, bytes, int, float, Decimal, uuid.UUID, datetime.date, datetime.time, datetime.timedelta)


def remembered(compiled: CompiledQuery, plan: Plan, parameters: Mapping[str, Any]) -> RoutedResult | None:
    """Return the empty result of a query that was asked before, None for any other."""
    if not isinstance(plan, SinglePlan) or not plan.empty or not compiled.described:
        return None
    description = compiled.described.get(_spelled(parameters))
    return None if description is None else RoutedResult(description, [], 0)


def remember(compiled: CompiledQuery, plan: Plan, parameters: Mapping[str, Any], result: RoutedResult) -> None:
    """Take note of what the columns of a contradiction are."""
    if not isinstance(plan, SinglePlan) or not plan.empty or result.rows:
        return
    if all(_is_plain(value) for value in parameters.values()) and len(compiled.described) < REMEMBERED:
        compiled.described[_spelled(parameters)] = result.description


def _spelled(parameters: Mapping[str, Any]) -> str:
    return repr(sorted(parameters.items()))


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(element) for element in value)
    return value is None or type(value) in (bool, datetime.datetime) or type(value) in _PLAIN
