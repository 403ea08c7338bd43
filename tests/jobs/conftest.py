"""Fixtures for tests of jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool import Router
from tests.jobs.job_tools import config_of, empty, make_tables
from tests.support.backends import databases

ROWS = 700


@pytest.fixture(scope="module")
def place_urls(server_urls: list[str]) -> Iterator[list[str]]:
    with databases(server_urls[:2]) as urls:
        yield urls


@pytest.fixture(scope="module")
def place(place_urls: list[str]) -> Iterator[Router]:
    """A keyspace over two shards with rows to copy."""
    config = config_of(place_urls)
    Router.initialise(config)
    with Router(config) as router:
        make_tables(router, ROWS)
        yield router


@pytest.fixture
def router(place: Router) -> Iterator[Router]:
    """The same, with nothing copied yet."""
    empty(place)
    yield place
    assert [name for name, stats in place.engines.stats().items() if stats.in_use] == []
