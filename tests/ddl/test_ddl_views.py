"""Views on real servers: where they are created, what the catalog is told of them, and what rebuilds them."""

from __future__ import annotations

import pytest

from shardpool.ddl.compaction import compact
from shardpool.ddl.features import read_features
from shardpool.ddl.log import read_log
from shardpool.errors import SchemaError
from tests.ddl.ddl_tools import PARTITIONS, SHARDS, SHOP, TABLES, Place

VIEWS = """
create view shop.large (customer, number, total) as select customer_id, id, total from shop.orders where total > 5;
create view rich as select c.*, l.total from customers c join large l on l.customer = c.customer_id;
create or replace view places as select code from country;
comment on view rich is 'who buys much';
"""


def views_of(place: Place, shard: str, schema: str) -> set[str]:
    return {name for (name,) in place.sql(shard, f"select viewname from pg_views where schemaname = '{schema}'")}


@pytest.fixture
def shop(place: Place) -> Place:
    place.manager.create_schema(SHOP, TABLES)
    place.manager.create_schema(VIEWS, {})
    return place


def test_views_are_where_their_tables_are(shop: Place) -> None:
    for shard in SHARDS:
        assert views_of(shop, shard, "shop") == {"places"}
        for schema in PARTITIONS[shard]:
            assert views_of(shop, shard, schema) == {"large", "rich"}
    views = shop.catalog.load().views
    assert {view.name: view.sharded for view in views.values()} == {"large": True, "rich": True, "places": False}
    assert views["large"].columns == ("customer", "number", "total")
    assert "shop.orders" in views["large"].definition.replace('"', "")
    assert "shop_p" not in "".join(view.definition for view in views.values())
    assert shop.drift() == []


def test_a_script_that_is_run_again_changes_nothing(shop: Place) -> None:
    before = shop.log()
    assert {it.state for it in shop.manager.create_schema(VIEWS, {})} == {"unchanged"}
    assert shop.log() == before


def test_definitions_follow_their_tables(shop: Place) -> None:
    """A star means the columns of its day; a renamed column keeps its name in the view."""
    shop.manager.create_schema("alter table customers add column age int", {})
    shop.manager.create_schema("alter table customers rename name to called", {})
    rich = shop.catalog.load().views["rich"]
    assert rich.columns == ("customer_id", "name", "mood", "country", "total")
    assert "age" not in rich.definition and "called AS name" in rich.definition
    assert shop.drift() == []


def test_a_view_is_replaced_and_dropped_with_its_views(shop: Place) -> None:
    shop.manager.create_schema(
        "create or replace view large as select customer_id as customer, id as number, total from orders "
        "where total > 7",
        {},
    )
    assert "7" in shop.catalog.load().views["large"].definition
    with pytest.raises(SchemaError, match="SP263"):
        shop.manager.create_schema("drop view large", {})
    shop.manager.create_schema("drop view if exists rich, large; drop view if exists nowhere; drop view places", {})
    assert shop.catalog.load().views == {}
    assert views_of(shop, "s0", "shop_p0000") == views_of(shop, "s1", "shop") == set()
    # Nothing of them is repeated in a new partition.
    assert not any("view" in it.statement.text for it in compact(read_log(shop.catalog, "done")))
    shop.manager.create_schema("alter table orders drop column total", {})


def test_a_partition_and_a_shard_are_built_with_their_views(shop: Place) -> None:
    shop.manager.create_schema("alter table customers rename name to called; drop view rich", {})
    shop.manager.create_schema("create view calls as select called from customers", {})
    shop.manager.prepare_shard("s2")
    with shop.connect("s2") as connection:
        cursor = connection.cursor()
        cursor.execute("create schema shop_p0000")
        shop.manager.replay_partition(connection, "shop_p0000", after_copy=False)
        shop.manager.replay_partition(connection, "shop_p0000", after_copy=True)
        built = read_features(cursor, "shop_p0000")
        connection.commit()
    with shop.connect("s0") as connection:
        cursor = connection.cursor()
        cursor.execute("set search_path to shop_p0000, shop, public")
        assert built == read_features(cursor, "shop_p0000")
    assert {it.name for it in built if it.kind == "view"} == {"large", "calls"}
    assert views_of(shop, "s2", "shop") == {"places"}


def test_a_table_that_is_dropped_after_its_view_is_not_built_again(place: Place) -> None:
    place.manager.create_schema("create table notes (customer_id bigint primary key)", {"notes": TABLES["orders"]})
    place.manager.create_schema("create view v as select * from notes; create or replace view v as table notes", {})
    place.manager.create_schema("drop view v; drop table notes", {})
    assert not any("notes" in it.statement.text for it in compact(read_log(place.catalog, "done")))


REFUSED = [
    ("create view v as select ctid from orders", "SP105"),
    ("create view v as select * from orders for update", "locks rows"),
    ("create view v as select pg_try_advisory_lock(1) from orders", "SP107"),
    ("create view v as select pg_backend_pid() as pid", "SP109"),
    ("create view v as select 'orders'::regclass as r from orders", "SP108"),
    ("create view v as select o from orders o", "SP117"),
    ("create or replace view large as select customer_id as customer, 1::bigint as number, total from rich", "itself"),
]


def test_what_could_not_be_queried_is_not_created(shop: Place) -> None:
    before = shop.log(), shop.catalog.load().views
    for ddl, reason in REFUSED:
        with pytest.raises(SchemaError, match=reason) as caught:
            shop.manager.create_schema(ddl, {})
        assert caught.value.code == "SP270"
    assert (shop.log(), shop.catalog.load().views) == before
    assert "v" not in views_of(shop, "s0", "shop_p0000")


def test_what_differs_is_seen(shop: Place) -> None:
    shop.sql("s1", "drop view shop_p0002.rich; create view shop_p0002.more as select 1")
    shop.sql(
        "s0",
        "create or replace view shop_p0000.large as select customer_id as customer, id as number, total "
        "from shop_p0000.orders where total > 4",
    )
    found = {(it.schema, it.table): it.message for it in shop.drift()}
    assert found.keys() == {("shop_p0000", "large"), ("shop_p0002", "rich"), ("shop_p0002", "more")}
    assert found["shop_p0002", "rich"] == "the view is missing"
    assert found["shop_p0002", "more"] == "the view is not in the catalog"
    assert "most have" in found["shop_p0000", "large"]
    # A moved partition would leave it behind: the name must lead nowhere.
    shop.sql("s1", "create table public.large (a int)")
    assert any(it.table == "large" and "would be found" in it.message for it in shop.drift())
    with pytest.raises(SchemaError, match="SP262"):
        shop.manager.create_schema("alter table orders add column x int", {})
