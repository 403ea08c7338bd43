from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.oracle import Oracle, open_oracle
from tests.oracle.writes import Both, emptied, on_plain, open_both
from tests.support.waiting import eventually


@pytest.fixture(scope="session")
def opened_oracle(server_urls: list[str]) -> Iterator[Oracle]:
    with open_oracle(server_urls) as oracle:
        yield oracle


@pytest.fixture
def oracle(opened_oracle: Oracle) -> Iterator[Oracle]:
    """Both sides with the rows of `dataset`. Whatever the test did, no connection is left in use."""
    yield opened_oracle
    pools = opened_oracle.router.stats
    # The router's own threads take one for a moment now and then.
    eventually(lambda: not any(stats.in_use for stats in pools().pools.values()), "all connections are given back")


@pytest.fixture(scope="module")
def opened(server_urls: list[str]) -> Iterator[Both]:
    with open_both(server_urls) as found:
        yield found


@pytest.fixture
def both(opened: Both, request: pytest.FixtureRequest) -> Iterator[Both]:
    """A cluster and a plain PostgreSQL whose tables have what the module's `FILL` writes, nothing without one."""
    with emptied(opened):
        for sql in getattr(request.module, "FILL", ()):
            opened.router.query(sql)
            on_plain(opened.plain, sql, {})
        yield opened
