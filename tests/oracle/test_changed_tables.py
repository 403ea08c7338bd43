"""Tables that change under a router: its answer is of the old shape or of the new one, or an error; never of both."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from shardpool import Config, Router
from shardpool.errors import ShardpoolError
from tests.conftest import SHOP_DDL


@pytest.fixture
def changing(config: Config) -> Iterator[Router]:
    """A router over the shop, with two orders in two partitions."""
    with Router(config) as router:
        router.create_schema(SHOP_DDL)
        if not router.query("select 1 from orders").all():
            router.copy_into("customers", [(7, "Ann", None, None), (8, "Bob", None, None)])
            router.copy_into("orders", [(7, 1, Decimal("1.23"), "a"), (8, 2, Decimal("5.00"), None)])
        yield router


def test_a_router_that_heard_of_no_change_does_not_answer_in_the_old_types(changing: Router, config: Config) -> None:
    with Router(config, listen=False) as unaware:
        changing.create_schema(
            "alter table orders alter column total type numeric(14,4); alter table orders add column extra integer;"
        )
        changing.execute(7, "update orders set total = 1.2345, extra = 5 where customer_id = 7")
        for statement in (
            "select distinct total from orders where order_id = 1",
            "select total from orders order by total limit 1",
        ):
            assert unaware.query(statement).all() == [(Decimal("1.2345"),)]
        gathered = "select avg(total), max((select count(*) from orders o where o.total = orders.total)) from orders"
        assert unaware.explain(gathered).rung in ("gather", "stages")
        assert unaware.query(gathered).all() == changing.query(gathered).all()
        for statement in ("select distinct * from orders", "select * from orders order by order_id"):
            shown = ", ".join(unaware.query(statement).keys())
            same = changing.query(f"select {shown} from ({statement}) o").all()
            assert sorted(unaware.query(statement).all()) == sorted(same)


CHANGES = {
    "a column more": ("select * from customers", "add column other integer", "drop column other"),
    "another type": ("select name from customers", "alter name type varchar(3)", "alter name type text"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_rows_of_two_shapes_are_not_one_answer(changing: Router, name: str) -> None:
    """As while another process's schema change is being committed on one shard after the other."""
    statement, change, back = CHANGES[name]
    shard, partitions = next(iter(changing.shard_map.by_shard().items()))

    def alter(action: str) -> None:
        with changing.shard(shard).engine.begin() as connection:
            for partition in partitions:
                connection.exec_driver_sql(f"alter table {partition.schema}.customers {action}")

    alter(change)
    try:
        with pytest.raises(ShardpoolError):
            changing.query(statement).all()
    finally:
        alter(back)
