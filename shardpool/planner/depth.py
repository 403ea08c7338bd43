"""Trees of any depth: a chain of a thousand operators is a tree of two thousand levels.

Protobuf reads messages of at most 100 levels unless a switch of the process is set, and Python calls itself a thousand
times. Both are lifted for the moment only in which a deeper tree is read or planned, as others in the process may rely
on them; the work is done by a thread whose stack has room for it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import postgast
from google.protobuf.internal import api_implementation, decoder
from google.protobuf.message import DecodeError

from shardpool.planner.frozen import remembering
from shardpool.planner.refusals import refuse

T = TypeVar("T")

#: What protobuf's own default is, for its implementation in Python.
_DEFAULT_LEVELS = 100
_LEVELS = 1_000_000
_CALLS = 60_000
#: Bytes of memory that is only reserved, and taken as it is used.
_STACK = 256 * 1024 * 1024


def at_any_depth(work: Callable[[], T]) -> T:
    """Return what *work* returns, called again without limits if it failed by them.

    Raise `UnsupportedStatement` for what is too deep even so.
    """
    try:
        return _remembering(work)
    except (DecodeError, RecursionError):
        pass
    try:
        with deep_trees(), _calls.lifted():
            return _with_room(lambda: _remembering(work))
    except RecursionError as error:
        raise refuse("SP115") from error


def _remembering(work: Callable[[], T]) -> T:
    with remembering():
        return work()


def parsed(sql: str) -> Any:
    """Return the tree of a text, however deep. Raise `postgast.PgQueryError`."""
    try:
        return postgast.parse(sql)
    except DecodeError:
        with deep_trees():
            return postgast.parse(sql)


def _with_room(work: Callable[[], T]) -> T:
    with _starting:
        before = threading.stack_size(_STACK)
        try:
            executor = ThreadPoolExecutor(1)
            future = executor.submit(work)
        finally:
            threading.stack_size(before)
    with executor:
        return future.result()


def _allow_levels(lifted: bool) -> None:
    implementation: Any = api_implementation
    if implementation.Type() == "python":
        decoder.SetRecursionLimit(_LEVELS if lifted else _DEFAULT_LEVELS)
    else:
        implementation._c_module.SetAllowOversizeProtos(lifted)


class _Calls:
    """How deep Python may call itself; the former limit stands again afterwards."""

    before = 0

    def __call__(self, lifted: bool) -> None:
        if lifted:
            self.before = sys.getrecursionlimit()
        sys.setrecursionlimit(max(_CALLS, self.before) if lifted else self.before)


class _Limit:
    """A limit of the process that is lifted while anybody needs it to be."""

    def __init__(self, lift: Callable[[bool], None]) -> None:
        self._lift = lift
        self._lock = threading.Lock()
        self._users = 0

    @contextmanager
    def lifted(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._lift(True)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._lift(False)


_levels, _calls = _Limit(_allow_levels), _Limit(_Calls())
#: Lets trees be of any depth meanwhile: `with deep_trees():`.
deep_trees = _levels.lifted
_starting = threading.Lock()
