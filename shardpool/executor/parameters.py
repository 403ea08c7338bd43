"""Parameters that do not fit their statement are told in a sentence.

Whether they fit shows where psycopg2 puts them in, so that statements whose parameters do fit pay nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from shardpool.errors import WrongParameters

P = ParamSpec("P")
T = TypeVar("T")


def check_mapping(params: object) -> None:
    """Raise `WrongParameters` for anything but a mapping or None."""
    if params is not None and not isinstance(params, Mapping):
        raise WrongParameters(
            f"parameters are one mapping, {{'name': value}} for :name, got a {type(params).__name__}; for a list of "
            "mappings use execute(statement, list) of a router.session(), for many rows router.copy_into()"
        )


def with_parameters(method: Callable[P, T]) -> Callable[P, T]:
    """A method with arguments *sql* and *params*, which raises `WrongParameters` if they do not fit."""

    @wraps(method)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except (KeyError, TypeError, AttributeError) as error:
            given = inspect.signature(method).bind(*args, **kwargs).arguments
            _check(given["sql"], given.get("params"), error)
            raise

    return told


def _check(sql: Any, params: Any, error: Exception) -> None:
    check_mapping(params)
    name = error.args[0] if isinstance(error, KeyError) and error.args else None
    if isinstance(name, str) and name not in (params or {}) and isinstance(sql, str) and f":{name}" in sql:
        have = ", ".join(map(str, params)) if params else "none"
        raise WrongParameters(f"the statement has :{name}, which the parameters ({have}) do not") from error
