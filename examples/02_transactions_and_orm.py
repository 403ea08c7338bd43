"""SQLAlchemy on one partition: connections with transactions, constructs, and ORM sessions."""

from sqlalchemy import BigInteger, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shardpool import Sharded
from shardpool.errors import CrossShardTransaction
from shardpool.local import LocalCluster


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    account_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    balance: Mapped[int]


with LocalCluster(shards=2, partitions=8, keyspace="bank") as cluster, cluster.router() as router:
    router.create_schema(
        "CREATE TABLE accounts (account_id bigint PRIMARY KEY, balance bigint NOT NULL)",
        tables={"accounts": Sharded("account_id")},
    )
    router.copy_into("accounts", ((number, 100) for number in range(200)))

    with router.connect(7) as connection, connection.begin():
        connection.execute(text("UPDATE accounts SET balance = balance - 30 WHERE account_id = 7"))

    with router.session(8) as session:
        session.get_one(Account, 8).balance += 30
        session.commit()

    print("total:", router.query(select(func.sum(Account.balance))).scalar_one())

    # A row is kept out of a partition that its key does not belong to.
    elsewhere = next(key for key in range(200, 400) if router.partition_of(key) != router.partition_of(7))
    try:
        router.execute(7, "INSERT INTO accounts VALUES (:id, 0)", {"id": elsewhere})
    except CrossShardTransaction as error:
        print("refused:", error)
