"""What snapshots cost the writers of several shards: transactions per second of two shards, taken in turn.

alone       nobody reads
plain       a reader sums all accounts by query(), ten times a second
ungated     a reader does the same in a REPEATABLE READ transaction
snapshots   a reader does the same in snapshot(): what it costs more than "ungated" is the gate
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table as RichTable

from shardpool import Router, Sharded
from shardpool.local import LocalCluster

CLIENTS = 4
ROUNDS = 7
SECONDS = 1.5
PAUSE = 0.1
UPDATE = "UPDATE accounts SET amount = amount + 1 WHERE account_id = :key"
SUM = "SELECT sum(amount) FROM accounts"


def snapshot(router: Router) -> None:
    with router.snapshot() as snap:
        snap.query(SUM).scalar_one()


def ungated(router: Router) -> None:
    with router.transaction(isolation="REPEATABLE READ", read_only=True) as tx:
        tx.query(SUM).scalar_one()


READERS: dict[str, Callable[[Router], object] | None] = {
    "alone": None,
    "plain": lambda router: router.query(SUM).scalar_one(),
    "ungated": ungated,
    "snapshots": snapshot,
}


def rate(router: Router, pairs: list[list[int]], reader: Callable[[Router], object] | None) -> float:
    """Return transactions per second while *reader* reads."""
    ended = threading.Event()
    done = [0] * len(pairs)

    def write(number: int) -> None:
        while not ended.is_set():
            with router.transaction() as tx:
                for key in pairs[number]:
                    tx.execute(key, UPDATE, {"key": key})
            done[number] += 1

    def read() -> None:
        while reader is not None and not ended.wait(PAUSE):
            reader(router)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(pairs))]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    ended.set()
    for thread in threads:
        thread.join()
    return sum(done) / SECONDS


def main() -> None:
    with LocalCluster(shards=2, partitions=16, keyspace="bench") as cluster, cluster.router() as router:
        router.create_schema(
            "CREATE TABLE accounts (account_id bigint PRIMARY KEY, amount bigint NOT NULL)",
            {"accounts": Sharded("account_id")},
        )
        router.copy_into("accounts", ((key, 0) for key in range(1000)))
        first, second = ([key for key in range(1000) if router.shard_of(key).name == name] for name in ("s0", "s1"))
        pairs = [[first[number], second[number]] for number in range(CLIENTS)]
        rates: dict[str, list[float]] = {name: [] for name in READERS}
        for _ in range(ROUNDS + 1):
            for name, reader in READERS.items():
                rates[name].append(rate(router, pairs, reader))
    table = RichTable(title=f"{CLIENTS} clients writing two shards, {ROUNDS} rounds of {SECONDS:g} s")
    for heading in ("reader", "transactions/s, median", "x alone"):
        table.add_column(heading, justify="right")
    for name, found in rates.items():
        ratio = statistics.median(mine / base for mine, base in zip(found[1:], rates["alone"][1:], strict=True))
        table.add_row(name, f"{statistics.median(found[1:]):.0f}", f"{ratio:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
