"""Drift: each difference that is made by hand is found, and named once."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.ddl.ddl_tools import SHOP, TABLES, Place

P3 = "shop_p0003"


@pytest.fixture
def shop(place: Place) -> Place:
    place.manager.create_schema(SHOP, TABLES)
    assert place.drift() == []
    return place


@pytest.mark.parametrize(
    ("by_hand", "schema", "table", "message"),
    [
        ("drop index {}.orders_by_total", P3, "orders", "index 'orders_by_total' is missing"),
        ("create index x on {}.orders (note)", P3, "orders", "index 'x' is there"),
        ("alter table {}.orders add column extra int", P3, "orders", "column 'extra' is not in the catalog"),
        ("alter table {}.orders drop column note", P3, "orders", "column 'note' is missing"),
        ("alter table {}.orders alter note type varchar", P3, "orders", "column 'note' is"),
        ("alter table {}.orders alter note set not null", P3, "orders", "column 'note' is"),
        ('alter table {}.customers alter name type text collate "POSIX"', P3, "customers", "column 'name' is"),
        ("alter table {}.orders alter total set default 1", P3, "orders", "DEFAULT 1"),
        ("drop table {}.orders", P3, "orders", "the table is missing"),
        ("create table {}.extra (a int)", P3, "extra", "the table is not in the catalog"),
        ("alter table {}.orders drop constraint orders_pkey cascade", P3, "orders", "the primary key is ()"),
        ("alter table {}.orders drop constraint orders_total_check", P3, "orders", "'orders_total_check' is missing"),
        ("alter table {}.orders drop constraint parent_fk", P3, "orders", "foreign key 'parent_fk' is missing"),
        ("alter table {}.orders disable trigger touch", P3, "orders", "trigger 'touch' is"),
        ("drop trigger touch on {}.orders", P3, "orders", "trigger 'touch' is missing"),
        ("alter table {}.orders set (fillfactor = 50)", P3, "orders", "fillfactor=50"),
        ("comment on column {}.orders.note is 'else'", P3, "orders", "column 'note' is #"),
        ("comment on constraint parent_fk on {}.orders is 'x'", P3, "orders", "COMMENT 'x' FOREIGN KEY"),
        ("create policy few on {}.orders using (total < 3)", P3, "orders", "policy 'few' is there"),
        ("create statistics {}.both on total, note from {}.orders", P3, "orders", "statistics 'both' is there"),
        ("drop schema {} cascade", P3, "", "the schema is missing"),
        ("create schema shop_p0000", "shop_p0000", "", "does not place this partition here"),
        ("create schema shop_p12345", "shop_p12345", "", "does not place this partition here"),
        ("create table public.orders (a int)", "public", "orders", "would be found"),
        ("create view shop.orders as select 1", "shop", "orders", "would be found"),
        ("alter table shop.country drop column name", "shop", "country", "column 'name' is missing"),
        ("alter table shop.country rename to nation", "shop", "country", "the table is missing"),
        ("delete from shop.shardpool_ddl where id = 1", "shop", "shardpool_ddl", "not applied: 1"),
        ("drop table shop.shardpool_ddl", "shop", "shardpool_ddl", "the table is missing"),
    ],
)
def test_a_difference_is_found(shop: Place, by_hand: str, schema: str, table: str, message: str) -> None:
    shop.sql("s1", by_hand.replace("{}", P3))
    found = [it for it in shop.drift() if (it.schema, it.table) == (schema, table)]
    assert any(message in it.message for it in found), shop.drift()
    assert {it.shard for it in shop.drift()} == {"s1"}
    if table and "cascade" not in by_hand and "rename" not in by_hand:
        assert all(it.schema == schema for it in shop.drift())


@pytest.mark.parametrize(
    "by_hand", ["drop index {}.orders_by_total", "alter table {}.orders add column extra int", "drop table {}.orders"]
)
def test_one_change_is_one_difference(shop: Place, by_hand: str) -> None:
    shop.sql("s1", by_hand.replace("{}", P3))
    assert len(shop.drift()) == 1
    assert str(shop.drift()[0]).startswith("shard s1, shop_p0003.orders: ")


def test_columns_in_another_order(shop: Place) -> None:
    shop.sql("s1", f"alter table {P3}.orders drop column note; alter table {P3}.orders drop column parent")
    shop.sql("s1", f"alter table {P3}.orders add column note text; alter table {P3}.orders add column parent bigint")
    messages = [it.message for it in shop.drift() if it.table == "orders"]
    assert any(it.startswith("column 'note' is #4") for it in messages), messages


def test_partitions_of_a_move_are_left_alone(shop: Place) -> None:
    shop.sql("s0", "create schema shop_p0003")
    shop.sql("s1", "create index for_the_copy on shop_p0003.orders (note)")
    assert len(shop.drift()) == 2
    with shop.catalog.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO shardpool_catalog.move (keyspace, partition, source, target, step, state) "
                "VALUES ('shop', 3, 's1', 's0', 'copy', 'running')"
            )
        )
    assert shop.drift() == []


def test_nothing_was_ever_applied(place: Place) -> None:
    messages = {(it.shard, it.schema, it.message) for it in place.drift()}
    assert ("s0", "shop", "the schema is missing") in messages
    assert ("s1", "shop_p0002", "the schema is missing") in messages
