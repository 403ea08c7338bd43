"""Running a function in a transaction, and again where the first attempt surely did nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from shardpool.errors import ShardpoolError
from shardpool.executor.transaction import Transaction

T = TypeVar("T")

#: serialization_failure, deadlock_detected: another attempt may succeed.
_AGAIN = ("40001", "40P01")


def is_safe_to_retry(error: BaseException) -> bool:
    """Whether a transaction that raised *error* was rolled back, for a reason that may pass."""
    if isinstance(error, DBAPIError):
        return getattr(error.orig, "pgcode", None) in _AGAIN
    return isinstance(error, ShardpoolError) and error.retryable


def run_transaction(begin: Callable[[], Transaction], work: Callable[[Transaction], T], retries: int) -> T:
    """Return what *work* returns, committed. Raise its last error after *retries* further attempts."""

    def attempt() -> T:
        with begin() as transaction:
            return work(transaction)

    again = Retrying(
        retry=retry_if_exception(is_safe_to_retry),
        stop=stop_after_attempt(retries + 1),
        wait=wait_random_exponential(multiplier=0.005, max=1.0),
        reraise=True,
    )
    return again(attempt)
