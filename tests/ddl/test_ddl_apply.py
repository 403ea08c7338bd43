from __future__ import annotations

from ddl_tools import PARTITIONS, SHARDS, SHOP, TABLES, Place


def test_a_script_reaches_every_partition_and_the_catalog(place: Place) -> None:
    reports = place.manager.create_schema(SHOP, TABLES)
    assert {it.state for it in reports} == {"applied"}
    for shard in SHARDS:
        assert place.tables_of(shard, "shop") == {"country"}
        for schema in PARTITIONS[shard]:
            assert place.tables_of(shard, schema) == {"customers", "orders"}
    topology = place.catalog.load()
    orders = topology.tables["orders"]
    assert [(it.name, it.type, it.not_null) for it in orders.columns] == [
        ("customer_id", "bigint", True),
        ("id", "bigint", True),
        ("total", "numeric(10,2)", True),
        ("parent", "bigint", False),
        ("note", "text", False),
    ]
    assert (orders.primary_key, orders.key) == (("customer_id", "id"), ("customer_id",))
    assert topology.tables["customers"].columns[1].collation == 'pg_catalog."C"'
    assert topology.tables["country"].key == ()
    assert topology.user_functions == {"touch"}
    assert place.drift() == []
    again = place.manager.create_schema(SHOP, TABLES)
    assert {it.state for it in again} == {"unchanged"}
    assert place.catalog.load().shard_map.epoch == topology.shard_map.epoch
