"""SQLAlchemy constructs give the same rows from the router as from one PostgreSQL through SQLAlchemy's own engine."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    Engine,
    Float,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    create_engine,
    exists,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    text,
    tuple_,
    union_all,
    values,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql import Executable

from tests.oracle import dataset
from tests.oracle.oracle import Oracle, fingerprint

META = MetaData()
ORDERS = Table(
    "orders",
    META,
    Column("id", BigInteger),
    Column("customer_id", BigInteger, primary_key=True),
    Column("total", Numeric(10, 2)),
    Column("weight", Float),
    Column("quantity", Integer),
    Column("placed", Date),
    Column("note", Text),
    Column("active", Boolean),
    Column("code", Text),
    Column("attrs", JSONB),
    Column("nums", ARRAY(Integer)),
    Column("doc", Uuid),
)
ITEMS = Table("items", META, Column("customer_id", BigInteger), Column("order_id", BigInteger), Column("line", Integer))
COUNTRY = Table("country", META, Column("code", Text, primary_key=True), Column("name", Text))
VISITS = Table("visits", META, Column("visit_id", Uuid, primary_key=True), Column("page", Text))
LINES = Table(
    "Order Line",
    META,
    Column("Customer Id", BigInteger),
    Column("100%", Numeric),
    Column("x:y", Text),
    Column("select", Integer),
)
QUALIFIED = Table("orders", MetaData(schema="shop"), Column("id", BigInteger), Column("customer_id", BigInteger))


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    customer_id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String)
    vip: Mapped[bool | None]


o, i, c = ORDERS.c, ITEMS.c, COUNTRY.c
OTHER = aliased(Customer)
CONSTRUCTS: dict[str, tuple[Executable, dict[str, Any]]] = {
    "by key": (select(ORDERS).where(o.customer_id == 7).order_by(o.id), {}),
    "by key, qualified": (select(QUALIFIED).where(QUALIFIED.c.customer_id == 7).order_by(QUALIFIED.c.id), {}),
    "in a list": (select(o.id).where(o.customer_id.in_([7, 3])).order_by(o.id), {}),
    "in nothing": (select(o.id).where(o.customer_id.in_([])).order_by(o.id), {}),
    "in a bound list": (
        select(o.id).where(o.customer_id.in_(bindparam("ids", expanding=True))).order_by(o.id),
        {"ids": [7, 12]},
    ),
    "in pairs": (select(o.id).where(tuple_(o.customer_id, o.id).in_([(7, 1), (7, 3)])).order_by(o.id), {}),
    "not in": (select(func.count()).select_from(ORDERS).where(o.customer_id.not_in([7, 3])), {}),
    "a uuid key": (select(VISITS.c.page).where(VISITS.c.visit_id == dataset.uid(3)), {}),
    "uuids": (select(o.id).where(o.doc.in_([dataset.uid(1), uuid.UUID(int=0)])).order_by(o.id), {}),
    "percent": (select(o.id, (o.id % 7).label("m%")).where(o.note.like("a%")).order_by(text("2"), o.id), {}),
    "names": (select(LINES).where(LINES.c["x:y"].contains("v:1")).order_by(LINES.c["100%"], LINES.c["x:y"]), {}),
    "names pinned": (select(LINES.c["100%"]).where(LINES.c["Customer Id"] == 3).order_by(LINES.c["100%"]), {}),
    "page": (select(o.id, o.total).order_by(o.total.desc().nulls_last(), o.id).limit(5).offset(3), {}),
    "groups": (
        select(o.code, func.count().label("n"), func.sum(o.total), func.avg(o.quantity))
        .group_by(o.code)
        .having(func.count() > 5)
        .order_by(literal_column("n").desc(), o.code),
        {},
    ),
    "filter": (select(func.count().filter(o.active), func.max(o.note)).where(o.total > Decimal("1.50")), {}),
    "join": (
        select(o.id, i.line)
        .join_from(ORDERS, ITEMS, and_(o.customer_id == i.customer_id, o.id == i.order_id), isouter=True)
        .where(or_(i.line.is_(None), i.line > 1))
        .order_by(o.id, i.line),
        {},
    ),
    "reference join": (
        select(c.name, func.sum(o.total))
        .join_from(ORDERS, COUNTRY, o.code == c.code)
        .group_by(c.name)
        .order_by(c.name),
        {},
    ),
    "exists": (
        select(o.id).where(exists().where(i.order_id == o.id, i.customer_id == o.customer_id)).order_by(o.id),
        {},
    ),
    "cte": (
        select(func.count()).select_from(select(o.id).where(o.total > 50).cte("big")),
        {},
    ),
    "union": (
        union_all(select(o.id).where(o.customer_id == 3), select(i.order_id).where(i.customer_id == 3)).order_by("id"),
        {},
    ),
    "window": (select(o.id, func.row_number().over(order_by=o.id)).order_by(o.id).limit(4), {}),
    "distinct": (select(o.code).distinct().order_by(o.code), {}),
    "case and cast": (
        select(case((o.total > 50, "high"), else_="low").label("band"), cast(func.count(), Integer))
        .group_by("band")
        .order_by("band"),
        {},
    ),
    "json": (select(o.id, o.attrs["k"].astext).where(o.attrs["s"].astext == "x1").order_by(o.id), {}),
    "arrays": (select(o.id, o.nums).where(o.nums.contains([1])).order_by(o.id), {}),
    "any": (
        select(o.id).where(o.customer_id == func.any(bindparam("ids", type_=ARRAY(BigInteger)))).order_by(o.id),
        {"ids": [7, 3]},
    ),
    "dates": (select(o.id, o.placed).where(o.placed > datetime.date(2024, 3, 1)).order_by(o.placed, o.id), {}),
    "a literal date": (select(literal(datetime.date(2024, 3, 1)).label("d"), o.id).order_by(o.id).limit(2), {}),
    "not": (select(func.count()).select_from(ORDERS).where(not_(o.customer_id == 7)), {}),
    "bound limit": (select(o.id).order_by(o.id).limit(bindparam("n")).offset(bindparam("m")), {"n": 3, "m": 2}),
    "text": (text("select id, '\\:x' as x from orders where customer_id = :k order by id limit 2"), {"k": 7}),
    "values": (
        select(func.count())
        .select_from(ORDERS)
        .join(
            v := values(Column("k", BigInteger), Column("w", Text), name="v").data([(7, "a%"), (3, "b")]),
            v.c.k == o.customer_id,
        ),
        {},
    ),
    "lateral": (
        select(o.id, literal_column("x.line"))
        .join_from(
            ORDERS,
            select(i.line)
            .where(i.customer_id == o.customer_id, i.order_id == o.id)
            .order_by(i.line)
            .limit(1)
            .lateral("x"),
            text("true"),
        )
        .order_by(o.id),
        {},
    ),
    "mapped": (select(Customer.customer_id, Customer.name).where(Customer.vip).order_by(Customer.customer_id), {}),
    "self join": (
        select(Customer.customer_id, OTHER.customer_id)
        .join(OTHER, and_(OTHER.name == Customer.name, OTHER.customer_id < Customer.customer_id))
        .order_by(Customer.customer_id, OTHER.customer_id),
        {},
    ),
}


@pytest.fixture(scope="module")
def plain(opened_oracle: Oracle) -> Iterator[Engine]:
    """SQLAlchemy's own engine on the plain database."""
    engine = create_engine("postgresql+psycopg2://", creator=opened_oracle.connect_plain, poolclass=StaticPool)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_a_construct_gives_the_same_rows(oracle: Oracle, plain: Engine, name: str) -> None:
    construct, params = CONSTRUCTS[name]
    with plain.connect() as connection:
        expected = connection.execute(construct, params)
        keys, rows = list(expected.keys()), [tuple(row) for row in expected]
    for _ in range(2):
        got = oracle.router.query(construct, params)
        assert list(got.keys()) == keys
        assert [fingerprint(tuple(row)) for row in got] == [fingerprint(row) for row in rows]
