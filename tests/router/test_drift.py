"""Rows of different shapes are never put together."""

from __future__ import annotations

import pytest

from shardpool import Router
from shardpool.errors import SchemaDrift


def test_shards_that_answer_with_different_columns(shop: Router) -> None:
    placement = shop.shard_map.placements[-1]
    partitions = shop.shard_map.by_shard()[placement.shard]
    shop.query("SELECT * FROM orders").all()
    with shop.shard(placement.shard).engine.begin() as connection:
        for partition in partitions:
            connection.exec_driver_sql(f"ALTER TABLE {partition.schema}.orders ADD COLUMN extra int")
    try:
        with pytest.raises(SchemaDrift, match="different columns"):
            shop.query("SELECT * FROM orders")
    finally:
        with shop.shard(placement.shard).engine.begin() as connection:
            for partition in partitions:
                connection.exec_driver_sql(f"ALTER TABLE {partition.schema}.orders DROP COLUMN extra")
