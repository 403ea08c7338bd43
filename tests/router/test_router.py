"""The router on real servers: routing, writes kept in place, connections, sessions, constructs."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import sqlalchemy.exc
from sqlalchemy import BigInteger, Column, MetaData, Numeric, Table, Text, func, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shardpool import Config, Router, Sharded
from shardpool.errors import (
    CatalogMissing,
    ConfigError,
    CrossShardTransaction,
    InvalidSQL,
    KeyTypeMismatch,
    UnknownTable,
    UnsupportedStatement,
)
from shardpool.planner.refusals import REFUSALS

INSERT = "INSERT INTO orders (customer_id, order_id, total, note) VALUES (:customer, :order, :total, :note)"


pytestmark = pytest.mark.usefixtures("filled")


def test_execute_returns_a_sqlalchemy_result(shop: Router) -> None:
    result = shop.execute(7, "SELECT order_id, total FROM orders WHERE customer_id = :c ORDER BY 1", {"c": 7})
    assert isinstance(result, sqlalchemy.engine.Result)
    assert [row.order_id for row in result] == [0, 1, 2]
    assert shop.execute(7, "SELECT count(*) FROM shop.orders o WHERE o.customer_id = 7").scalar_one() == 3
    changed = shop.execute(7, "UPDATE orders SET note = 'x' WHERE customer_id = 7")
    assert changed.rowcount == 3  # type: ignore[attr-defined]
    with pytest.raises(sqlalchemy.exc.ResourceClosedError):
        changed.all()
    row = shop.execute(7, "DELETE FROM orders WHERE customer_id = 7 AND order_id = 1 RETURNING note").one()
    assert row.note == "x"


def test_rows_lie_where_their_key_hashes(shop: Router) -> None:
    for key in range(40):
        partition, shard = shop.partition_of(key), shop.shard_of(key)
        with shop.shard(shard.name).engine.connect() as connection:
            found = connection.execute(
                text(f"SELECT count(*) FROM {partition.schema}.customers WHERE customer_id = :key"), {"key": key}
            )
            assert found.scalar_one() == 1


def test_text_is_as_in_sqlalchemy(shop: Router) -> None:
    sql = r"SELECT ':no', '%', \:\:x FROM (SELECT 1 AS \"a:b\") AS q, orders WHERE customer_id = :c".replace(
        r"\:\:x", "'2'::int"
    ).replace(r"\"", '"')
    assert shop.execute(3, sql, {"c": 3}).first() == (":no", "%", 2)
    assert shop.query("SELECT count(*) FROM orders WHERE note LIKE '100\\% \\:%'").scalar_one() == 60


@pytest.mark.parametrize("key", ["7", True, 7.0, None, (7,), b"7"])
def test_a_key_of_another_type_is_an_error(shop: Router, key: object) -> None:
    with pytest.raises(KeyTypeMismatch):
        shop.execute(key, "SELECT 1 FROM orders")
    with pytest.raises(KeyTypeMismatch):
        shop.partition_of(key)


def test_a_row_of_another_partition_is_refused(shop: Router) -> None:
    mine = shop.partition_of(1)
    stranger = next(key for key in range(100) if shop.partition_of(key) != mine)
    neighbour = next(key for key in range(100, 1000) if shop.partition_of(key) == mine)
    values = {"customer": stranger, "order": 9, "total": 1, "note": None}
    with pytest.raises(CrossShardTransaction, match=str(stranger)):
        shop.execute(1, INSERT, values)
    with pytest.raises(CrossShardTransaction), shop.connect(1) as connection:
        connection.execute(text(INSERT), values)
    with pytest.raises(CrossShardTransaction):
        shop.execute(1, "UPDATE orders SET customer_id = :s WHERE customer_id = 1", {"s": stranger})
    shop.execute(1, "INSERT INTO customers VALUES (:key, 'n')", {"key": neighbour})
    shop.execute(neighbour, "DELETE FROM customers WHERE customer_id = :key", {"key": neighbour})
    with pytest.raises(UnsupportedStatement, match="SP113"):
        shop.execute(1, "INSERT INTO customers (customer_id, name) SELECT 1 + 1, 'x'")
    with pytest.raises(UnsupportedStatement, match="SP113"):
        shop.execute(
            1,
            "WITH orders AS (SELECT 2 AS customer_id, 1 AS order_id) "
            "INSERT INTO orders (customer_id, order_id) SELECT customer_id, order_id FROM orders",
        )
    copied = "INSERT INTO orders (customer_id, order_id) SELECT customer_id, order_id + 100 FROM orders"
    shop.execute(3, copied)
    with pytest.raises(UnsupportedStatement, match="SP112"):
        shop.execute(1, "INSERT INTO country VALUES ('de', 'Germany')")


def test_errors_are_sqlalchemys(shop: Router) -> None:
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        shop.execute(1, "INSERT INTO customers VALUES (:key, 'again')", {"key": 1})
    with pytest.raises(sqlalchemy.exc.ProgrammingError, match="no_such_column"):
        shop.execute(1, "SELECT no_such_column FROM orders")
    with pytest.raises(sqlalchemy.exc.DataError):
        shop.query("SELECT 1 / (total - total) FROM orders")
    with pytest.raises(InvalidSQL, match="syntax error"):
        shop.query("SELEC 1")
    with pytest.raises(InvalidSQL, match="own"):
        shop.query("SELECT 'shardpool_partition_schema' FROM orders")
    with pytest.raises(UnknownTable, match="orderz"):
        shop.query("SELECT * FROM orderz")


MEMBERS = """
CREATE TABLE members (member_id bigint PRIMARY KEY, email text);
CREATE TABLE emails (email text PRIMARY KEY, member_id bigint NOT NULL);
"""
PARENTS = """
CREATE TABLE parents (customer_id bigint PRIMARY KEY);
CREATE TABLE children (customer_id bigint PRIMARY KEY REFERENCES parents ON DELETE CASCADE);
"""


# SP142 is of views that no schema script creates.
@pytest.mark.parametrize("code", sorted(REFUSALS.keys() - {"SP142"}))
def test_every_refusal_by_its_example(shop: Router, code: str) -> None:
    example = REFUSALS[code][2]
    with pytest.raises(UnsupportedStatement) as caught:
        if "SP110" <= code <= "SP114":
            shop.execute(1, example)
        elif code in ("SP130", "SP134"):
            with shop.transaction(isolation="REPEATABLE READ") as transaction:
                transaction.query(example)
        elif code == "SP145":
            with shop.session() as session:
                session.execute(text("DELETE FROM orders"))
                session.execute(text(example))
        elif code == "SP137":
            shop.explain(example, analyze=True)
        elif code == "SP139":
            members = {"members": Sharded("member_id", {"email": "emails"}), "emails": Sharded("email")}
            shop.create_schema(MEMBERS, members)
            shop.query(example)
        elif code in ("SP140", "SP141", "SP143"):
            shop.create_schema("create or replace view large as select * from orders where total > 50")
            shop.query(example)
        elif code == "SP138":
            shop.create_schema(PARENTS, {"parents": Sharded("customer_id"), "children": Sharded("customer_id")})
            shop.query("INSERT INTO parents SELECT generate_series(1, 20)")
            shop.query(example)
        else:
            shop.query(example)
    assert caught.value.code == code
    assert caught.value.hint


def test_connect_and_transactions(shop: Router) -> None:
    with shop.connect(5) as connection:
        with connection.begin():
            connection.execute(text("UPDATE customers SET name = 'kept' WHERE customer_id = 5"))
            with connection.begin_nested() as savepoint:
                connection.execute(text("DELETE FROM orders WHERE customer_id = 5"))
                savepoint.rollback()
            assert connection.execute(text("SELECT count(*) FROM orders WHERE customer_id = 5")).scalar_one() == 1
        with connection.begin() as transaction:
            connection.execute(text("UPDATE customers SET name = 'lost' WHERE customer_id = 5"))
            transaction.rollback()
        with pytest.raises(UnsupportedStatement, match="SP111"):
            connection.execute(text("CREATE TABLE behind (a int)"))
    with shop.connect(5) as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        assert autocommit.execute(text("SELECT name FROM customers WHERE customer_id = 5")).scalar_one() == "kept"
    with shop.connect(5) as connection:
        streamed = connection.execution_options(stream_results=True)
        assert len(streamed.execute(text("SELECT * FROM orders WHERE note LIKE '100%'")).all()) >= 1


ORDERS = Table(
    "orders",
    MetaData(),
    Column("customer_id", BigInteger, primary_key=True),
    Column("order_id", BigInteger, primary_key=True),
    Column("total", Numeric(10, 2)),
    Column("note", Text),
)


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    customer_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str]


def test_constructs(shop: Router) -> None:
    by_key = select(ORDERS.c.order_id, ORDERS.c.total).where(ORDERS.c.customer_id == 7).order_by(ORDERS.c.order_id)
    rows = shop.execute(7, by_key).all()
    assert [(row.order_id, row.total) for row in rows] == [(0, 7), (1, 8), (2, 9)]
    assert shop.query(by_key).all() == rows
    shop.execute(7, insert(ORDERS).values(customer_id=7, order_id=50, total=1))
    many = select(func.count(), func.max(ORDERS.c.order_id)).where(ORDERS.c.customer_id.in_([1, 2, 3, 7]))
    assert shop.query(many).one() == (1 + 2 + 3 + 4, 50)
    assert shop.query(select(Customer.name).where(Customer.customer_id == 7)).scalar_one() == "c7"


def test_session(shop: Router) -> None:
    with shop.session(9) as session:
        customer = session.get_one(Customer, 9)
        customer.name = "renamed"
        session.commit()
    assert shop.query("SELECT name FROM customers WHERE customer_id = 9").scalar_one() == "renamed"
    stranger = next(key for key in range(1000, 2000) if shop.partition_of(key) != shop.partition_of(9))
    with pytest.raises(CrossShardTransaction), shop.session(9) as session:
        session.add(Customer(customer_id=stranger, name="x"))
        session.commit()
    friends = [key for key in range(1000, 4000) if shop.partition_of(key) == shop.partition_of(9)][:20]
    with shop.session(9) as session:
        session.add_all([Customer(customer_id=key, name="bulk") for key in friends])
        session.commit()
        assert shop.query("SELECT count(*) FROM customers WHERE name = 'bulk'").scalar_one() == 20
        for key in friends:
            session.delete(session.get_one(Customer, key))
        session.commit()


def test_psycopg2_pool_style(shop: Router) -> None:
    connection = shop.getconn(11)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM orders WHERE customer_id = %s", (11,))
        assert cursor.fetchone() == (3,)
    connection.rollback()
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM orders WHERE customer_id = 11")
    shop.putconn(connection)
    with shop.shard(shop.shard_of(11).name).engine.connect() as found, pytest.raises(sqlalchemy.exc.ProgrammingError):
        found.execute(text("SELECT * FROM orders"))


def test_query_uses_each_rung(shop: Router) -> None:
    cases = {
        "SELECT count(*) FROM orders WHERE customer_id = 7": ("single", 3),
        "SELECT count(*) FROM orders": ("pushdown", 60),
        "SELECT count(*) FROM orders WHERE customer_id IN (6, 7, 9)": ("some: pushdown", 6),
        "WITH RECURSIVE r AS (SELECT note FROM orders UNION SELECT note FROM r) SELECT count(*) FROM r": ("gather", 30),
        "SELECT count(*) FROM country": ("reference", 0),
        "SELECT 41 + 1": ("reference", 42),
    }
    for sql, (rung, answer) in cases.items():
        assert shop.explain(sql).rung == rung, sql
        assert shop.query(sql).scalar_one() == answer, sql
        assert sql in str(shop.explain(sql).to_json())


def test_sixteen_threads(shop: Router) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for step in range(60):
                key = (seed * 7 + step) % 40
                count = shop.execute(key, "SELECT count(*) FROM orders WHERE customer_id = :k", {"k": key}).scalar_one()
                assert count == key % 4
                if step % 10 == 0:
                    assert shop.query("SELECT count(*), sum(total) FROM orders").one()[0] == 60
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert all(pool.in_use == 0 for pool in shop.stats().pools.values())


def test_pools_of_one_connection_do_not_deadlock_scatters(config: Config, shop: Router) -> None:
    small = replace(config, pool=replace(config.pool, max_size=1))
    with Router(small) as router:
        failures: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(15):
                    assert router.query("SELECT count(DISTINCT note) FROM orders").scalar_one() == 30
                    assert router.query("SELECT count(*) FROM orders").scalar_one() == 60
            except BaseException as error:
                failures.append(error)
                raise

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures


def test_close_leaves_no_thread_or_connection(config: Config, shop: Router) -> None:
    before = set(threading.enumerate())
    router = Router(config)
    router.query("SELECT count(DISTINCT note) FROM orders")
    router.execute(1, "SELECT 1 FROM orders")
    router.close()
    router.close()
    assert set(threading.enumerate()) <= before
    assert all(pool.size == 0 for pool in router.stats().pools.values())


def test_a_configured_table_may_come_later(config: Config, shop: Router) -> None:
    later = replace(config, tables={**config.tables, "later": Sharded("id")})
    with Router(later) as router:
        router.create_schema("ALTER TABLE orders ALTER COLUMN note SET DEFAULT 'none'")
        assert "later" not in router.topology.tables


def test_an_uninitialised_catalog(config: Config) -> None:
    with pytest.raises(CatalogMissing, match="shardpool init"):
        Router(replace(config, keyspace="absent"))


def test_the_same_database_twice(config: Config) -> None:
    url = config.shards["s0"].url
    twice = {**config.shards, "s9": replace(config.shards["s0"], url=url.replace("127.0.0.1", "localhost"))}
    with pytest.raises(ConfigError, match=r"shards\.s9\.url"):
        Router.initialise(replace(config, shards=twice))


@pytest.mark.parametrize(
    "sql",
    [
        "MERGE INTO customers c USING (VALUES (7), (8)) v (id) ON c.customer_id = v.id "
        "WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (v.id, 'stray')",
        "WITH m AS (MERGE INTO customers c USING (VALUES (8)) v (id) ON c.customer_id = v.id "
        "WHEN NOT MATCHED THEN INSERT (customer_id, name) VALUES (v.id, 'stray') RETURNING 1) SELECT * FROM m",
    ],
)
def test_merge_on_one_partition_could_put_rows_in_the_wrong_one(shop: Router, sql: str) -> None:
    with pytest.raises(UnsupportedStatement, match="SP111"):
        shop.execute(7, sql)
    with shop.connect(7) as connection, pytest.raises(UnsupportedStatement, match="SP111"):
        connection.execute(text(sql))
