from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool.local import LocalCluster
from tests.ddl.ddl_tools import Place


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a server on which the tests create databases of their own: each is a shard."""
    with LocalCluster(shards=1, partitions=1, keyspace="shop") as cluster:
        yield cluster.url("s0")


@pytest.fixture
def place(server: str) -> Iterator[Place]:
    """A keyspace `shop` of four partitions on two shards, and a third database, `s2`, that is no shard yet."""
    place = Place(server)
    try:
        yield place
    finally:
        place.close()
