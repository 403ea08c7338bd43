"""Parallel workers for scatters: only where they pay, and for one statement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from typing import Any

import pytest

from shardpool.executor.scatter import PARALLEL_SETUP_COST, frugal
from tests.support.backends import plain_connection

ASKED = "SELECT current_setting('parallel_setup_cost')::float8"


@pytest.fixture
def cursor(server_urls: list[str]) -> Iterator[Any]:
    with closing(plain_connection(server_urls[0])) as connection:
        yield connection.cursor()


def asked(cursor: Any, sql: str) -> float:
    cursor.execute(sql)
    return float(cursor.fetchone()[0])


def test_workers_cost_by_partition_for_one_statement(cursor: Any) -> None:
    assert asked(cursor, frugal(ASKED, 6)) == 6 * PARALLEL_SETUP_COST
    assert asked(cursor, ASKED) == PARALLEL_SETUP_COST


def test_one_partition_is_asked_in_plain_words() -> None:
    assert frugal(ASKED, 1) == ASKED


def test_who_wants_no_workers_gets_none(cursor: Any) -> None:
    cursor.execute("SET parallel_setup_cost = 1e9")
    assert asked(cursor, frugal(ASKED, 6)) == 1e9


def test_rows_that_are_copied_too(cursor: Any) -> None:
    found = BytesIO()
    cursor.copy_expert(frugal(f"COPY ({ASKED}) TO STDOUT", 3), found)
    assert float(found.getvalue()) == 3 * PARALLEL_SETUP_COST
    assert asked(cursor, ASKED) == PARALLEL_SETUP_COST
