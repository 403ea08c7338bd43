"""Views by every way into a router: queries, one partition, connections, transactions, streams, sessions, writes."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest
from sqlalchemy import text

from shardpool import Config, Router
from shardpool.errors import SchemaError, UnknownTable, UnsupportedStatement

VIEWS = """
create view dear as select customer_id, order_id, total from orders where total > 20;
create view spent as select customer_id, sum(total) as total from shop.dear group by customer_id;
"""


@pytest.fixture
def viewed(shop: Router, filled: None) -> Iterator[Router]:
    shop.create_schema(VIEWS)
    yield shop
    shop.create_schema("drop view if exists spent; drop view if exists dear")


def test_every_way_in_reads_a_view(viewed: Router) -> None:
    of_all = viewed.query("select count(*), sum(total) from orders where total > 20").one()
    assert viewed.query("select count(*), sum(total) from dear").one() == of_all
    assert viewed.query("select sum(total) from spent").scalar() == of_all[1]
    assert sum(1 for _ in viewed.stream("select * from dear")) == of_all[0]
    own = "select sum(total) from {} where customer_id = :key"
    expected = viewed.execute(23, own.format("orders"), {"key": 23}).scalar()
    assert expected is not None
    assert viewed.explain(own.format("spent"), {"key": 23}).rung == "single"
    for view in ("dear", "shop.dear", "spent"):
        assert viewed.query(own.format(view), {"key": 23}).scalar() == expected
        assert viewed.execute(23, own.format(view), {"key": 23}).scalar() == expected
        with viewed.connect(23) as connection:
            assert connection.execute(text(own.format(view)), {"key": 23}).scalar() == expected
        with viewed.transaction() as transaction:
            assert transaction.execute(23, own.format(view), {"key": 23}).scalar() == expected
            assert transaction.query(own.format(view), {"key": 23}).scalar() == expected
            assert transaction.query("select sum(total) from spent").scalar() == of_all[1]
        with viewed.snapshot() as snapshot:
            assert snapshot.query("select count(*) from dear").scalar() == of_all[0]
    with viewed.session(23) as session:
        assert session.execute(text("select sum(total) from dear where customer_id = 23")).scalar() == expected


def test_a_transaction_sees_its_own_writes_by_a_view(viewed: Router) -> None:
    with pytest.raises(RuntimeError), viewed.transaction() as transaction:
        transaction.execute(5, "insert into orders (customer_id, order_id, total) values (5, 99, 1000)")
        assert transaction.query("select max(total) from spent").scalar() == Decimal(1000)
        assert transaction.query("select count(*) from dear where total = 1000").scalar() == 1
        raise RuntimeError
    assert viewed.query("select count(*) from dear where total = 1000").scalar() == 0


def test_views_are_read_by_writes_and_never_written(viewed: Router) -> None:
    count = viewed.query("select count(*) from orders where customer_id in (select customer_id from spent)").scalar()
    written = viewed.query("update orders set note = 'x' where customer_id in (select customer_id from spent)")
    assert written.rowcount == count  # type: ignore[attr-defined]
    for write in ("delete from dear", "update spent set total = 1", "insert into dear values (5, 1, 100)"):
        with pytest.raises(UnsupportedStatement, match="SP140"):
            viewed.query(write)
        with pytest.raises(UnsupportedStatement, match="SP140"):
            viewed.execute(5, write)
        with viewed.connect(5) as connection, pytest.raises(UnsupportedStatement, match="SP140"):
            connection.execute(text(write))
    with pytest.raises(UnknownTable):
        viewed.copy_into("dear", [(1, 1, 1)])


def test_plans_are_forgotten_when_a_view_changes(viewed: Router, config: Config) -> None:
    count = "select count(*) from dear"
    with Router(config, listen=False) as other:
        before = other.query(count).scalar()
        viewed.create_schema(
            "create or replace view dear as select customer_id, order_id, total from orders where total > 30"
        )
        after = viewed.query("select count(*) from orders where total > 30").scalar()
        assert viewed.query(count).scalar() == after != before
        other.refresh()
        assert other.query(count).scalar() == after
        viewed.create_schema("drop view spent; drop view dear")
        other.refresh()
        for router in (viewed, other):
            with pytest.raises(UnknownTable):
                router.query(count)


def test_a_table_that_a_view_reads_is_protected(viewed: Router) -> None:
    with pytest.raises(SchemaError, match=r"SP263.*column total of table orders"):
        viewed.create_schema("alter table orders drop column total")
    with pytest.raises(SchemaError, match="SP263"):
        viewed.create_schema("drop table orders")
