"""From an exception to one line and an exit code. No line ever shows a password."""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg2
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from shardpool.catalog.catalog import connection_failed
from shardpool.errors import (
    CatalogMissing,
    CatalogUnavailable,
    ConfigError,
    PoolTimeout,
    ScatterFailed,
    ShardpoolError,
    ShardUnavailable,
)

FAILED = 1
USAGE = 2
UNAVAILABLE = 3

#: What a command may end with. Anything else is a bug of shardpool's, and shows its traceback.
REPORTED = (ShardpoolError, SQLAlchemyError, psycopg2.Error, OSError, ImportError)

_PASSWORD_IN_URL = re.compile(r"(://[^:/@\s'\"]*):[^\s'\"]*@")
_PASSWORD_SETTING = re.compile(r"\b(password|passwd|pgpassword)(\s*=\s*)('[^']*'|[^\s&'\"]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """An error as it is shown. `code` is that of a catalogue of refusals, or PostgreSQL's SQLSTATE."""

    type: str
    message: str
    retryable: bool
    code: str | None = None


def describe(error: BaseException) -> Failure:
    """Return how *error* is shown: as one line."""
    retryable = bool(getattr(error, "retryable", False))
    code = getattr(error, "code", None) if isinstance(error, ShardpoolError) else None
    driver = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(driver, psycopg2.Error):
        return Failure(type(driver).__name__, hide_passwords(_server_message(driver)), retryable, driver.pgcode)
    return Failure(type(error).__name__, hide_passwords(_one_line(str(error))), retryable, code)


def exit_code(error: BaseException) -> int:
    """Return 3 if a server is not there, 2 if the configuration is not right, else 1."""
    match error:
        case ConfigError() | CatalogMissing() | ImportError():
            return USAGE
        case ShardUnavailable() | CatalogUnavailable() | PoolTimeout():
            return UNAVAILABLE
        case ScatterFailed(errors=errors) if any(exit_code(it) == UNAVAILABLE for it in errors.values()):
            return UNAVAILABLE
        case DBAPIError() if connection_failed(error):
            return UNAVAILABLE
    return FAILED


def hide_passwords(text: str) -> str:
    """Return *text* with the passwords of URLs and connection strings as ``***``."""
    return _PASSWORD_SETTING.sub(r"\1\2***", _PASSWORD_IN_URL.sub(r"\1:***@", text))


def _server_message(error: psycopg2.Error) -> str:
    """What the server says, without the excerpt of a statement that the user did not write in this form."""
    said = error.diag
    parts = [said.message_primary or _one_line(str(error)), said.message_detail, said.message_hint]
    sentences = [_one_line(part) for part in parts if part]
    return " ".join(it if it.endswith((".", "?", "!")) else f"{it}." for it in sentences)


def _one_line(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return "; ".join(line.removesuffix(";") for line in lines if line) or "no message"
