from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.oracle import Oracle, open_oracle


@pytest.fixture(scope="session")
def opened_oracle(server_urls: list[str]) -> Iterator[Oracle]:
    with open_oracle(server_urls) as oracle:
        yield oracle


@pytest.fixture
def oracle(opened_oracle: Oracle) -> Iterator[Oracle]:
    """Both sides with the rows of `dataset`. Whatever the test did, no connection is left in use."""
    yield opened_oracle
    assert [name for name, stats in opened_oracle.router.stats().pools.items() if stats.in_use] == []
