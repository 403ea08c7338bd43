"""The error tree: drawn, complete, and in one place."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import shardpool
from shardpool import errors

OF_THE_COMMAND_LINE = {"GeneratorMissing"}


def every_error() -> set[type[Exception]]:
    for module in pkgutil.walk_packages(shardpool.__path__, "shardpool."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: set[type[Exception]] = set()
    waiting: list[type[Exception]] = [errors.ShardpoolError]
    while waiting:
        current = waiting.pop()
        found.add(current)
        waiting.extend(current.__subclasses__())
    return {error for error in found if error.__name__ not in OF_THE_COMMAND_LINE}


@pytest.mark.parametrize("error", sorted(every_error(), key=lambda error: error.__name__))
def test_every_error_is_drawn_and_says_whether_it_is_retryable(error: type[errors.ShardpoolError]) -> None:
    assert errors.__doc__ is not None
    if error.__name__.startswith("_"):
        return
    assert error.__module__ == "shardpool.errors"
    lines = [line for line in errors.__doc__.splitlines() if error.__name__ in line.split()]
    assert lines
    assert error.retryable == any("(retryable)" in line for line in lines)
    assert inspect.isclass(error)
