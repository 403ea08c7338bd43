"""ORM sessions over all shards: identity map, unit of work, relationships and commits as for one database."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator

import pytest
from sqlalchemy import BigInteger, ForeignKey, Numeric, String, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError, InternalError, StatementError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    joinedload,
    mapped_column,
    relationship,
    scoped_session,
    selectinload,
    sessionmaker,
)
from sqlalchemy.orm.exc import StaleDataError

import shardpool
from shardpool import Router, Sharded
from shardpool.errors import MissingPartitionKey, WrongParameters


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    customer_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String)
    joined: Mapped[datetime.date | None]
    orders: Mapped[list[Order]] = relationship(back_populates="customer", cascade="all, delete-orphan")


class Order(Base):
    __tablename__ = "orders"
    customer_id: Mapped[int] = mapped_column(BigInteger, ForeignKey(Customer.customer_id), primary_key=True)
    order_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, default=shardpool.next_id)
    total: Mapped[decimal.Decimal | None] = mapped_column(Numeric(10, 2))
    note: Mapped[str | None]
    customer: Mapped[Customer] = relationship(back_populates="orders")


@pytest.fixture(autouse=True)
def _rows(shop: Router) -> Iterator[None]:
    with shop.session() as session:
        session.add_all(Customer(customer_id=key, name=f"c{key}") for key in range(12))
        session.flush()
        session.add_all(Order(customer_id=key, order_id=1, total=decimal.Decimal(key)) for key in range(12))
        session.commit()
    yield
    assert [name for name, stats in shop.stats().pools.items() if stats.in_use] == []
    shop.query("DELETE FROM orders")
    shop.query("DELETE FROM customers")


def two_shards(router: Router) -> tuple[int, int]:
    first = 0
    return first, next(key for key in range(12) if router.shard_of(key) != router.shard_of(first))


def test_objects_of_several_shards_are_committed_as_one(shop: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two_shards(shop)
    passed: list[str] = []
    with shop.session() as session:
        session.get_one(Customer, a).name = "new"
        session.get_one(Customer, b).name = "new"
        session.flush()
        assert session.scalar(select(func.count()).where(Customer.name == "new")) == 2
        assert shop.query("SELECT count(*) FROM customers WHERE name = 'new'").scalar_one() == 0
        monkeypatch.setattr("shardpool.faults.fault_point", passed.append)
        session.commit()
        monkeypatch.undo()
    assert "tx:decided" in passed
    assert shop.query("SELECT count(*) FROM customers WHERE name = 'new'").scalar_one() == 2


def test_without_commit_nothing_is_kept(shop: Router) -> None:
    with shop.session() as session:
        session.add_all(Customer(customer_id=key, name="x") for key in range(100, 120))
        session.flush()
        assert session.scalar(select(func.count(Customer.customer_id))) == 32
    assert shop.query("SELECT count(*) FROM customers").scalar_one() == 12


def test_one_object_is_read_from_its_partition(shop: Router) -> None:
    asked: list[str] = []
    with shop.session() as session:
        found = session.get_one(Customer, 7)
        transaction = session.connection().connection.dbapi_connection._transaction  # type: ignore[union-attr]
        asked += transaction.shards
        assert [order.total for order in found.orders] == [7]
        assert found.orders[0].customer is found
        asked += transaction.shards
        assert session.get(Customer, 7) is found and session.get(Customer, 777) is None
    assert set(asked) == {shop.shard_of(7).name}


def test_queries_give_entities(shop: Router) -> None:
    with shop.session() as session:
        rich = session.scalars(
            select(Customer).join(Customer.orders).where(Order.total > 8).order_by(Customer.customer_id.desc())
        ).all()
        assert [it.customer_id for it in rich] == [11, 10, 9]
        loaded = session.scalars(select(Customer).options(selectinload(Customer.orders)).order_by(Customer.name)).all()
        assert sum(order.total or 0 for it in loaded for order in it.orders) == 66
        joined = session.scalars(select(Order).options(joinedload(Order.customer)).where(Order.total == 3)).one()
        assert joined.customer.name == "c3"
        best = session.execute(select(Customer.name, func.sum(Order.total)).join(Order).group_by(Customer.name)).all()
        assert len(best) == 12
        assert session.execute(text("SELECT count(*) FROM orders WHERE total > :low"), {"low": 5}).scalar_one() == 6


def test_ids_are_given_where_the_row_goes(shop: Router) -> None:
    with shop.session() as session:
        customer = session.get_one(Customer, 5)
        customer.orders += [Order(note="a"), Order(note="b")]
        session.add_all(Order(customer_id=key, note="many") for key in range(12))
        session.commit()
        ids = session.scalars(select(Order.order_id).where(Order.note != "")).all()
        assert len(set(ids)) == 14
        first = customer.orders[1].order_id
    find = "SELECT customer_id FROM orders WHERE order_id = :id"
    assert shop.execute_by_id(first, find, {"id": first}).scalar_one() == 5
    with shop.session(5) as alone, shop.connect(6) as connection:
        alone.add(Order(customer_id=5, note="alone"))
        alone.commit()
        connection.execute(insert(Order).values(customer_id=6, note="core"))
        connection.commit()
    shop.query(insert(Order).values(customer_id=7, note="construct"))
    assert shop.query("SELECT count(*) FROM orders WHERE note IN ('alone', 'core', 'construct')").scalar_one() == 3


def test_an_id_needs_the_key_and_a_router(shop: Router) -> None:
    with (
        shop.session() as session,
        pytest.raises((MissingPartitionKey, StatementError), match="customer_id: give that"),
    ):
        session.execute(insert(Order).values(customer_id=None, note="x"))
    with (
        shop.shard("s0").engine.connect() as connection,
        pytest.raises((MissingPartitionKey, StatementError), match="through a router"),
    ):
        connection.execute(insert(Order).values(customer_id=1))


def test_objects_are_deleted_with_what_is_theirs(shop: Router) -> None:
    with shop.session() as session:
        for key in two_shards(shop):
            session.delete(session.get_one(Customer, key))
        session.commit()
    assert shop.query("SELECT count(*) FROM orders").scalar_one() == 10


def test_savepoints(shop: Router) -> None:
    a, b = two_shards(shop)
    with shop.session() as session:
        session.get_one(Customer, a).name = "kept"
        with session.begin_nested():
            session.get_one(Customer, b).name = "kept too"
        with pytest.raises(IntegrityError), session.begin_nested():
            session.add(Order(customer_id=b, order_id=1))
            session.flush()
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            session.get_one(Customer, b).name = "lost"
            session.flush()
            raise ZeroDivisionError
        session.commit()
    assert shop.query("SELECT count(*) FROM customers WHERE name LIKE 'kept%'").scalar_one() == 2


def test_statements_over_many_rows(shop: Router) -> None:
    with shop.session() as session:
        assert session.execute(update(Order).where(Order.total > 5).values(note="big")).rowcount == 6  # type: ignore[attr-defined]
        session.execute(insert(Customer), [{"customer_id": key, "name": "many"} for key in range(200, 260)])
        found = session.scalars(
            insert(Customer).returning(Customer.customer_id, sort_by_parameter_order=True),
            [{"customer_id": key, "name": "back"} for key in range(320, 300, -1)],
        ).all()
        assert list(found) == list(range(320, 300, -1))
        assert session.execute(delete(Order).where(Order.customer_id < 3)).rowcount == 3  # type: ignore[attr-defined]
        session.commit()
    assert shop.query("SELECT count(*) FROM customers").scalar_one() == 92


def test_isolation(shop: Router) -> None:
    with shop.session() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        assert session.get_one(Customer, 3).name == "c3"
        shop.execute(3, "UPDATE customers SET name = 'later' WHERE customer_id = 3")
        session.expire_all()
        assert session.get_one(Customer, 3).name == "c3"
        session.rollback()
        assert session.get_one(Customer, 3).name == "later"


def test_read_only_sessions_write_nothing(shop: Router) -> None:
    with shop.session() as session:
        session.connection(execution_options={"postgresql_readonly": True})
        session.get_one(Customer, 3).name = "new"
        with pytest.raises(InternalError, match="read-only"):
            session.flush()
    with shop.session() as session:
        session.get_one(Customer, 3).name = "new"
        session.commit()


def test_what_a_commit_over_shards_cannot_be_is_refused(shop: Router) -> None:
    with shop.session(twophase=True) as session, pytest.raises(NotImplementedError, match="leave out twophase"):
        session.get(Customer, 3)
    with shop.session() as session, pytest.raises(NotImplementedError, match="DEFERRABLE"):
        session.connection(execution_options={"postgresql_deferrable": True})


def test_an_engine_makes_sessions_and_connections(shop: Router) -> None:
    class Mine(Session):
        pass

    sessions = scoped_session(sessionmaker(shop.engine, class_=Mine))
    for key in two_shards(shop):
        sessions.get_one(Customer, key).name = "scoped"
    sessions.commit()
    assert isinstance(sessions(), Mine)
    sessions.remove()
    with shop.engine.begin() as connection:
        renamed = update(Customer).where(Customer.name == "scoped").values(name="core")
        assert connection.execute(renamed).rowcount == 2
    # A test's transaction, in which the code under test commits as it likes.
    with shop.engine.connect() as connection, connection.begin() as outer:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            session.execute(delete(Order))
            session.commit()
        outer.rollback()
    assert shop.query("SELECT count(*) FROM orders").scalar_one() == 12


def test_statements_in_the_words_of_the_driver(shop: Router) -> None:
    with shop.session() as session:
        connection = session.connection()
        both = "SELECT count(*), '%%' FROM orders WHERE total > %s AND customer_id < %s"
        assert connection.exec_driver_sql(both, (3, 8)).one() == (4, "%")
        named = "SELECT count(*) FROM orders WHERE total > %(low)s AND note IS NULL OR total > %(low)s"
        assert connection.exec_driver_sql(named, {"low": 3}).scalar_one() == 8
        raw = connection.connection.cursor()
        raw.execute("SELECT count(*), 'a%%' FROM customers WHERE name LIKE 'c%'")
        assert raw.fetchone() == (12, "a%%")
        raw.executemany("UPDATE orders SET note = %s WHERE customer_id = %s", [("a", 1), ("b", 2)])
        assert raw.rowcount == 2
        for given in ((3,), (3, 8, 9)):
            with pytest.raises(WrongParameters, match="%s"):
                connection.exec_driver_sql(both, given)


def test_an_error_names_its_statement_and_no_values(shop: Router) -> None:
    again = insert(Customer).values(customer_id=7, name="secret")
    with shop.session() as session, pytest.raises(IntegrityError, match="duplicate key") as found:
        session.execute(again)
    with pytest.raises(IntegrityError) as constructed:
        shop.query(again)
    for error in (found.value, constructed.value):
        assert str(error.statement).startswith("INSERT INTO customers")
        assert "[SQL: INSERT INTO customers" in str(error) and "secret" not in str(error)
        assert error.orig is not None and error.orig.pgcode == "23505"  # type: ignore[attr-defined]


def test_a_row_that_is_gone_is_noticed(shop: Router) -> None:
    with shop.session() as session, pytest.raises(StaleDataError):
        order = session.get_one(Order, (4, 1))
        shop.execute(4, "DELETE FROM orders WHERE customer_id = 4")
        order.note = "x"
        session.flush()


def test_a_changed_key_moves_the_object(shop: Router) -> None:
    shop.create_schema(
        "CREATE TABLE devices (owner bigint NOT NULL, device int NOT NULL, label text, PRIMARY KEY (owner, device))",
        {"devices": Sharded("owner")},
    )

    class Device(Base):
        __tablename__ = "devices"
        owner: Mapped[int] = mapped_column(BigInteger, primary_key=True)
        device: Mapped[int] = mapped_column(primary_key=True)
        label: Mapped[str]

    a, b = two_shards(shop)
    with shop.session() as session:
        session.add(Device(owner=a, device=1, label="phone"))
        session.commit()
        session.get_one(Device, (a, 1)).owner = b
        session.commit()
        assert session.get_one(Device, (b, 1)).label == "phone"
    assert shop.execute(b, "SELECT count(*) FROM devices").scalar_one() == 1
    assert shop.execute(a, "SELECT count(*) FROM devices").scalar_one() == 0
