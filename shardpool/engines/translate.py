"""The one boundary between the driver's errors and ours."""

from __future__ import annotations

from typing import Any

import psycopg2
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.exc import DBAPIError

from shardpool.errors import OutcomeUnknown, ShardUnavailable

#: SQLSTATEs with which PostgreSQL answers for a partition that is no longer there: undefined table, unknown schema.
STALE_STATES = ("42P01", "3F000")

_DIALECT: Any = PGDialect_psycopg2()  # type: ignore[no-untyped-call]
#: The server is going down, has gone down, or does not accept connections.
_GONE = ("57P01", "57P02", "57P03", "57P05")


def is_stale(error: BaseException) -> bool:
    return getattr(error, "pgcode", None) in STALE_STATES


def is_lost(error: psycopg2.Error, connection: Any) -> bool:
    """Whether the connection broke, rather than the statement failed. Without a *connection* the error alone tells."""
    return (
        bool(connection is not None and connection.closed)
        or error.pgcode in _GONE
        or str(error.pgcode or "").startswith("08")
    )


def translate(error: psycopg2.Error, connection: Any, shard: str, sql: str, writes: bool) -> Exception:
    """Return what to raise for a driver's error of one statement: `ShardUnavailable` for a broken connection (or
    `OutcomeUnknown` if a write was under way), else the same `sqlalchemy.exc` error that an engine would raise."""
    if is_lost(error, connection):
        reason = (str(error).strip().splitlines() or ["connection lost"])[0]
        return OutcomeUnknown(shard, reason) if writes else ShardUnavailable(shard, reason)
    wrapped = DBAPIError.instance(sql, {}, error, psycopg2.Error, hide_parameters=True, dialect=_DIALECT)
    assert isinstance(wrapped, Exception)
    return wrapped
