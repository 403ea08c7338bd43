"""Statements that lock rows of writers: they wait briefly, and are tried again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from shardpool.executor.retrying import is_safe_to_retry
from shardpool.topology.names import quote

T = TypeVar("T")
P = ParamSpec("P")

#: Before what locks rows: a wait is shorter than PostgreSQL's before it looks for a deadlock; and rows that a policy
#: hides from the role are an error.
LOCKING = "SET LOCAL lock_timeout = 200; SET LOCAL row_security = off; "
#: For how long others may hold the rows, in seconds.
PATIENCE = 300.0
_LOCK_NOT_AVAILABLE = "55P03"


def patiently(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Do *work* in a transaction, and again while others hold its rows. Raise its last error."""
    retrying = Retrying(
        retry=retry_if_exception(_passes),
        stop=stop_after_delay(PATIENCE),
        wait=wait_random_exponential(multiplier=0.02, max=1.0),
        reraise=True,
    )
    return retrying(work, *arguments, **options)


def named(name: str) -> str:
    """Return a quoted name for a statement with parameters."""
    return quote(name).replace("%", "%%")


def texts(names: Sequence[str]) -> str:
    """The columns as texts."""
    return ", ".join(f"{named(name)}::text" for name in names)


def _passes(error: BaseException) -> bool:
    locked = isinstance(error, DBAPIError) and getattr(error.orig, "pgcode", None) == _LOCK_NOT_AVAILABLE
    return locked or is_safe_to_retry(error)
