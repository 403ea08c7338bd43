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

from shardpool.planner.refusals import refuse

T = TypeVar("T")

#: What protobuf's own default is, for its implementation in Python.
_DEFAULT_LEVELS = 100
_LEVELS = 1_000_000
_CALLS = 60_000
#: Bytes of memory that is only reserved, and taken as it is used.
_STACK = 256 * 1024 * 1024

_lock = threading.Lock()
_users = 0
_calls = 0


def at_any_depth(work: Callable[[], T]) -> T:
    """Return what *work* returns, called again without limits if it failed by them.

    Raise `UnsupportedStatement` for what is too deep even so.
    """
    try:
        return work()
    except (DecodeError, RecursionError):
        pass
    try:
        with _unlimited():
            return _with_room(work)
    except RecursionError as error:
        raise refuse("SP115") from error


def parsed(sql: str) -> Any:
    """Return the tree of a text, however deep. Raise `postgast.PgQueryError`."""
    try:
        return postgast.parse(sql)
    except DecodeError:
        with _unlimited():
            return postgast.parse(sql)


def _with_room(work: Callable[[], T]) -> T:
    with _lock:
        before = threading.stack_size(_STACK)
        try:
            executor = ThreadPoolExecutor(1)
            future = executor.submit(work)
        finally:
            threading.stack_size(before)
    with executor:
        return future.result()


@contextmanager
def _unlimited() -> Iterator[None]:
    global _users, _calls
    with _lock:
        _users += 1
        if _users == 1:
            _calls = sys.getrecursionlimit()
            sys.setrecursionlimit(max(_CALLS, _calls))
            _set(True)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _set(False)
                sys.setrecursionlimit(_calls)


def _set(unlimited: bool) -> None:
    implementation: Any = api_implementation
    if implementation.Type() == "python":
        decoder.SetRecursionLimit(_LEVELS if unlimited else _DEFAULT_LEVELS)
    else:
        implementation._c_module.SetAllowOversizeProtos(unlimited)
