"""Tools for tests of the embedded cluster: SQL on a URL, bounded polling."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import psycopg2
from sqlalchemy.engine import make_url


def sql(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Run one statement in autocommit and return its rows."""
    target = make_url(url)
    connection = psycopg2.connect(
        host=target.host, port=target.port, user=target.username, dbname=target.database, connect_timeout=5
    )
    connection.autocommit = True
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def eventually(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Poll until the condition holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)
