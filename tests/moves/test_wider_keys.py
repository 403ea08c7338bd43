"""An integer key becomes a larger integer: all integers hash alike, so that no row has to move. Partitions still do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool import Router, Sharded
from shardpool.ddl import find_drift
from shardpool.errors import SchemaError
from shardpool.moves import move_partition
from tests.moves.conftest import shop_config
from tests.support.backends import databases

DDL = """
CREATE TABLE customers (id integer PRIMARY KEY, name text);
CREATE TABLE orders (customer_id smallint NOT NULL REFERENCES customers, id integer, PRIMARY KEY (customer_id, id));
"""
LARGE = 5_000_000_000
JOINED = "SELECT c.id, count(o.id) FROM customers c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id ORDER BY 1"


@pytest.fixture
def router(server_urls: list[str]) -> Iterator[Router]:
    with databases(server_urls) as urls:
        config = shop_config(urls, 8)
        Router.initialise(config)
        with Router(config) as found:
            found.create_schema(DDL, {"customers": Sharded("id"), "orders": Sharded("customer_id")})
            yield found


def test_rows_are_found_where_they_were(router: Router) -> None:
    router.query("INSERT INTO customers SELECT n, 'c' || n FROM generate_series(-5, 40) n")
    router.query("INSERT INTO orders SELECT n, n FROM generate_series(-5, 40) n")
    before = router.query(JOINED).all()
    with Router(router.config) as other:  # hears of it, and has plans with the old types
        assert other.query(JOINED).all() == before
        router.create_schema("ALTER TABLE customers ALTER COLUMN id TYPE bigint")
        assert router.query(JOINED).all() == before
        router.create_schema("ALTER TABLE orders ALTER customer_id SET DATA TYPE int8, ALTER id TYPE bigint")
        for key in range(-5, 41):
            assert router.execute(key, "SELECT name FROM customers WHERE id = :id", {"id": key}).all() == [(f"c{key}",)]
        with router.transaction() as tx:
            tx.execute(LARGE, "INSERT INTO customers VALUES (:id, 'large')", {"id": LARGE})
            identity = router.next_id(LARGE)
            tx.execute(LARGE, "INSERT INTO orders VALUES (:key, :id)", {"key": LARGE, "id": identity})
        assert router.query(JOINED).all() == other.query(JOINED).all() == [*before, (LARGE, 1)]
    for key in (7, LARGE):
        partition, home = router.partition_of(key).id, router.shard_of(key).name
        move_partition(router, partition, next(name for name in router.shard_map.shards if name != home))
    assert router.query(JOINED).all() == [*before, (LARGE, 1)]
    assert (
        router.execute_by_id(identity, "SELECT customer_id FROM orders WHERE id = :id", {"id": identity}).scalar()
        == LARGE
    )
    assert find_drift(router.catalog, router.engines, router.topology) == []


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE customers ALTER id TYPE smallint",
        "ALTER TABLE customers ALTER id TYPE text",
        "ALTER TABLE customers ALTER id TYPE numeric",
        "ALTER TABLE customers ALTER id TYPE bigint USING id + 1",
    ],
)
def test_all_else_is_refused(router: Router, ddl: str) -> None:
    with pytest.raises(SchemaError, match=r"SP237.*may only become a larger one"):
        router.create_schema(ddl)
