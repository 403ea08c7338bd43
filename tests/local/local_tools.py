"""Tools for tests of the embedded cluster: SQL on a URL, bounded polling."""

from __future__ import annotations

import contextlib
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
