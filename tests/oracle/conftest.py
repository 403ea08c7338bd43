from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.oracle import Oracle, open_oracle
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
