"""A target whose disk is full: the move is undone, the source serves, and the target has nothing left over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool.errors import MoveError
from shardpool.local import LocalCluster
from shardpool.moves import move_partition
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Place, schema
from tests.support.full_disk import LIMIT, restart


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(shards=2) as cluster:
        yield cluster


@pytest.mark.slow
def test_a_full_disk(cluster: LocalCluster) -> None:
    place = Place(shop_config([cluster.url(name) for name in cluster.names]))
    try:
        place.fill(customers=20)
        rows = "SELECT 0, repeat(md5(i::text), 10) FROM generate_series(1, 70000) i"
        source, target = place.owner(0), place.other(0)
        place.sql(source, f"INSERT INTO {schema(0)}.plain {rows}")
        before = place.contents()
        restart(cluster, target, LIMIT)
        with pytest.raises(MoveError, match=r"step copy failed: could not (extend|write)"):
            move_partition(place.router, 0, target, mode="trigger")
        restart(cluster, target, None)
        assert place.contents() == before
        place.assert_clean()
        move_partition(place.router, 0, target, mode="trigger")
        assert place.contents() == before
        place.assert_clean()
    finally:
        place.close()
