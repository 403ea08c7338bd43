"""The transaction of pgbench, like TPC-B, with all its rows in the partition of a branch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from shardpool import Router, Sharded

BRANCHES, TELLERS, ACCOUNTS = 64, 10, 1000
TABLES = """
CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int NOT NULL);
CREATE TABLE pgbench_tellers (bid int, tid int, tbalance int NOT NULL, PRIMARY KEY (bid, tid));
CREATE TABLE pgbench_accounts (bid int, aid int, abalance int NOT NULL, PRIMARY KEY (bid, aid));
CREATE TABLE pgbench_history (tid int, bid int NOT NULL, aid int, delta int, mtime timestamptz);
"""
#: As ``pgbench --builtin=tpcb-like`` has them, with the branch in every condition.
STATEMENTS = (
    "UPDATE {}pgbench_accounts SET abalance = abalance + :delta WHERE bid = :bid AND aid = :aid",
    "SELECT abalance FROM {}pgbench_accounts WHERE bid = :bid AND aid = :aid",
    "UPDATE {}pgbench_tellers SET tbalance = tbalance + :delta WHERE bid = :bid AND tid = :tid",
    "UPDATE {}pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid",
    "INSERT INTO {}pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, now())",
)


def load(router: Router) -> None:
    """Create and fill the tables."""
    names = ("branches", "tellers", "accounts", "history")
    router.create_schema(TABLES, {f"pgbench_{name}": Sharded("bid") for name in names})
    branches = range(BRANCHES)
    router.copy_into("pgbench_branches", ((bid, 0) for bid in branches))
    router.copy_into("pgbench_tellers", ((*ids, 0) for ids in product(branches, range(TELLERS))))
    router.copy_into("pgbench_accounts", ((*ids, 0) for ids in product(branches, range(ACCOUNTS))))


def plain(connection: Any, schema: str, branch: int, numbers: Iterator[int]) -> Callable[[], None]:
    """Return the transaction in psycopg2: it changes rows of *branch*, whose partition is *schema*."""
    statements = [re.sub(r":(\w+)", r"%(\1)s", words.format(f"{schema}.")) for words in STATEMENTS]

    def transaction() -> None:
        values = _values(branch, next(numbers))
        for words in statements:
            with connection.cursor() as cursor:
                cursor.execute(words, values)
                if cursor.description is not None:
                    cursor.fetchone()
        connection.commit()

    return transaction


def routed(router: Router, branch: int, numbers: Iterator[int]) -> Callable[[], None]:
    """Return the same as a transaction of the router."""
    statements = [words.format("") for words in STATEMENTS]

    def transaction() -> None:
        values = _values(branch, next(numbers))
        with router.transaction() as tx:
            for words in statements:
                tx.execute(branch, words, values)

    return transaction


def _values(branch: int, number: int) -> dict[str, int]:
    return {"bid": branch, "tid": number % TELLERS, "aid": number % ACCOUNTS, "delta": number % 100}
