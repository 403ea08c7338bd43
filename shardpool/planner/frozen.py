"""Trees that are not changed any more: what is found out about them is found out once per planning.

Reading a field of a protobuf message makes a Python object, and a planner asks the same of the same trees again at each
rung and for each choice of tables. While `remembering`, messages of frozen trees stay alive and are known by identity:
the lists of what is below them, and the results of functions of them that are marked by `once`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

#: A submessage as it stands: the field's name, its place in the field's list if it is one, and the message.
Part: TypeAlias = tuple[str, int | None, Any]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Below:
    """What is directly below a frozen message; and once that was asked for, as it stands, the message's walks, and the
    names that a ColumnRef consists of."""

    message: Any
    children: list[Any]
    parts: list[Part] | None = None
    #: By whether they are flat.
    walks: dict[bool, list[Any]] = field(default_factory=dict)
    fields: tuple[str, ...] | None = None


@dataclass
class Memory:
    """What was found out in one planning."""

    #: Frozen messages and what is directly below them, by the message's id.
    below: dict[int, Below] = field(default_factory=dict)
    #: Results by the function and the ids of its arguments, which are kept alive.
    results: dict[tuple[Any, ...], tuple[Any, Any]] = field(default_factory=dict)
    #: Proven texts by the bytes of their trees.
    texts: dict[bytes, str] = field(default_factory=dict)


class _Planning(threading.local):
    """The memory of the planning that this thread is in."""

    memory: Memory | None = None


planning = _Planning()


@contextmanager
def remembering(memory: Memory | None = None) -> Iterator[None]:
    """Remember frozen trees until the outermost of such blocks ends, and use what *memory* has."""
    if planning.memory is not None:
        yield
        return
    planning.memory = memory or Memory()
    try:
        yield
    finally:
        planning.memory = None


def below(message: Any) -> Below | None:
    """Return what is below a frozen message, None for any other."""
    memory = planning.memory
    return None if memory is None else memory.below.get(id(message))


def is_frozen(message: Any) -> bool:
    """Whether a message, no `Node`, is part of a frozen tree."""
    return below(message) is not None


def once(function: Callable[P, T]) -> Callable[P, T]:
    """Let *function* be called once per planning with the same objects: by identity, and they must not change."""

    @wraps(function)
    def remembered(*args: P.args, **kwargs: P.kwargs) -> T:
        memory = planning.memory
        if memory is None:
            return function(*args, **kwargs)
        key = (function, *map(id, args), *kwargs.items())
        found = memory.results.get(key)
        if found is None:
            found = memory.results[key] = args, function(*args, **kwargs)
        result: T = found[1]
        return result

    return remembered
