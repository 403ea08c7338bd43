"""The error tree: drawn, complete, and in one place."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from typing import Any

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


@pytest.mark.parametrize("error", sorted(every_error(), key=str))
def test_every_error_is_drawn_and_says_whether_it_is_retryable(error: type[errors.ShardpoolError]) -> None:
    assert errors.__doc__ is not None
    if error.__name__.startswith("_"):
        return
    assert error.__module__ == "shardpool.errors"
    lines = [line for line in errors.__doc__.splitlines() if error.__name__ in line.split()]
    assert lines
    assert error.retryable == any("(retryable)" in line for line in lines)
    assert inspect.isclass(error)


#: Arguments of errors that take more than a message.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "NotUnique": ("users", "email", ["'a' (keys 1 and 2)"]),
    "ConfigError": ("cluster.toml", "pool", 3, "a table"),
    "UnknownTable": ("a", "shop", ["b"]),
    "KeyTypeMismatch": ("42", "bigint"),
    "UnsupportedStatement": ("SP100", "no", "yes"),
    "GatherTooLarge": (2, 1),
    "SchemaError": ("SP200", "no"),
    "SchemaBusy": ("SP200", "no"),
    "ShardUnavailable": ("s0", "gone"),
    "OutcomeUnknown": ("s0", "gone"),
    "InDoubt": ("1", "s0", "gone"),
    "CrossShardDeadlock": ("s0",),
    "WriteConflict": (3,),
    "CannotPrepare": ("s0", "off"),
    "ScatterFailed": ({"s0": errors.ShardUnavailable("s0", "gone")},),
    "PreflightFailed": (["one", "two"],),
    "BadRow": ("a.csv", 3, "no"),
    "BadRows": ("a.csv", "no", 0),
}


@pytest.mark.parametrize("error", sorted(every_error(), key=str))
def test_every_error_comes_from_another_process_as_it_was(error: type[errors.ShardpoolError]) -> None:
    if error.__name__.startswith("_"):
        return
    raised = error(*ARGUMENTS.get(error.__name__, ("what happened",)))
    raised.add_note("and then")
    found = pickle.loads(pickle.dumps(raised))
    assert (type(found), str(found), found.retryable) == (error, str(raised), raised.retryable)
    assert {name: repr(value) for name, value in vars(found).items()} == {
        name: repr(value) for name, value in vars(raised).items()
    }
