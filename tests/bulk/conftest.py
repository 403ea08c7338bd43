from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shardpool.local import LocalCluster
from tests.bulk.bulk_tools import Shop, make_shop, wait_for


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(shards=2, partitions=4, keyspace="shop") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def opened_shop(cluster: LocalCluster) -> Iterator[Shop]:
    shop = make_shop({name: cluster.url(name) for name in cluster.names})
    yield shop
    shop.close()


@pytest.fixture
def shop(opened_shop: Shop) -> Iterator[Shop]:
    """The keyspace with empty tables. Whatever the test did, no thread, transaction or connection of a load is left."""
    opened_shop.empty()
    yield opened_shop
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("shardpool-load")] == []
    assert opened_shop.prepared() == []
    assert [name for name, stats in opened_shop.engines.stats().items() if stats.in_use] == []
    # A server notices a closed connection a moment later.
    query = "SELECT FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    wait_for(lambda: not any(opened_shop.rows_on(name, query) for name in opened_shop.urls))
