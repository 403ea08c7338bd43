"""What routing costs: one row by its key, six ways on the same server, taken in turn.

bare        psycopg2 cursor, autocommit, schema-qualified table, one open connection
execute     router.execute(key, sql)
query       router.query(sql), the key found in the text
sqlalchemy  engine.connect() and Connection.execute(text(sql)) on one engine
sharded     SQLAlchemy's ShardedSession, session.get() of a fresh session
session     router.session(), session.get() of a fresh session
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table as RichTable
from sqlalchemy import BigInteger, create_engine, text
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from shardpool import Router, Sharded
from shardpool.local import LocalCluster
from tests.support.backends import plain_connection

KEY = 4711
CALLS = 1000
ROUNDS = 9


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    account_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str]


def candidates(router: Router, urls: list[str]) -> dict[str, Callable[[], object]]:
    partition = router.partition_of(KEY)
    url = urls[list(router.shard_map.shards).index(router.shard_of(KEY).name)]
    cursor = plain_connection(url).cursor()
    qualified = f"SELECT account_id, name FROM {partition.schema}.accounts WHERE account_id = "
    engine = create_engine(url)
    bound = text(qualified + ":id")
    named = create_engine(url, connect_args={"options": f"-c search_path={partition.schema}"})
    make_session = sessionmaker(
        class_=ShardedSession,
        shards={"a": named},
        shard_chooser=lambda mapper, instance, clause=None: "a",
        identity_chooser=lambda mapper, key, **options: ["a"],
        execute_chooser=lambda context: ["a"],
    )

    def bare() -> object:
        cursor.execute(qualified + "%(id)s", {"id": KEY})
        return cursor.fetchone()

    def execute() -> object:
        return router.execute(KEY, "SELECT account_id, name FROM accounts WHERE account_id = :id", {"id": KEY}).one()

    def query() -> object:
        return router.query("SELECT account_id, name FROM accounts WHERE account_id = :id", {"id": KEY}).one()

    def sqlalchemy() -> object:
        with engine.connect() as connection:
            return connection.execute(bound, {"id": KEY}).one()

    def sharded() -> object:
        with make_session() as session:
            return session.get_one(Account, KEY)

    def session() -> object:
        with router.session() as session:
            return session.get_one(Account, KEY)

    calls = (bare, execute, query, sqlalchemy, sharded, session)
    return {call.__name__: call for call in calls}


def measure(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Return microseconds per call of each round, the candidates taken in turn within a round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            times[name].append((time.perf_counter() - start) / CALLS * 1e6)
    return {name: found[1:] for name, found in times.items()}


def main() -> None:
    with LocalCluster(shards=2, partitions=16, keyspace="bench") as cluster, cluster.router() as router:
        router.create_schema(
            "CREATE TABLE accounts (account_id bigint PRIMARY KEY, name text NOT NULL)",
            {"accounts": Sharded("account_id")},
        )
        router.copy_into("accounts", ((key, f"name {key}") for key in range(20_000)))
        times = measure(candidates(router, [cluster.url(name) for name in cluster.names]))
    table = RichTable(title=f"one row by key, {ROUNDS} rounds of {CALLS:,} calls")
    for heading in ("", "us, median", "min", "x bare (median of rounds)"):
        table.add_column(heading, justify="right")
    for name, found in times.items():
        ratio = statistics.median(mine / base for mine, base in zip(found, times["bare"], strict=True))
        table.add_row(name, f"{statistics.median(found):.1f}", f"{min(found):.1f}", f"{ratio:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
