"""List-append histories over three shards: what each isolation level forbids does not happen, moves or not."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from shardpool import Config, Router, Sharded
from shardpool.errors import InDoubt, ShardpoolError
from shardpool.moves import move_partition
from tests.transactions.histories import Append, Read, Transaction, check

SEED = int(os.environ.get("SHARDPOOL_SEED", "0")) or random.randrange(1, 10**6)
#: Transactions per thread; `SHARDPOOL_HISTORY=1500` is the whole.
LENGTH = int(os.environ.get("SHARDPOOL_HISTORY", "60"))
THREADS = 8
KEYS = 9

APPEND = "UPDATE lists SET elements = elements || ',' || :element WHERE key = :key"


@pytest.fixture(scope="module")
def lists(config: Config) -> Iterator[Router]:
    with Router(config) as router:
        router.create_schema(
            "CREATE TABLE lists (key bigint PRIMARY KEY, elements text NOT NULL)", {"lists": Sharded("key")}
        )
        yield router


@pytest.fixture(autouse=True)
def _empty(lists: Router) -> None:
    lists.refresh()
    lists.query("TRUNCATE lists")
    lists.query("INSERT INTO lists VALUES " + ", ".join(f"({key}, '')" for key in range(KEYS)))


def parsed(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")[1:]))


class Clients:
    """Threads that run generated transactions and write down what happened."""

    def __init__(self, router: Router, isolation: Any, snapshots: bool) -> None:
        self.router, self.isolation, self.snapshots = router, isolation, snapshots
        self.history: list[Transaction] = []
        self._numbers, self._elements, self._lock = count(), count(1), threading.Lock()

    def run(self) -> list[Transaction]:
        threads = [threading.Thread(target=self._work, args=(SEED + number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        last = self._begin()
        found = {row.key: parsed(row.elements) for row in self.router.query("SELECT key, elements FROM lists")}
        last.operations = [Read(key, found[key]) for key in range(KEYS)]
        last.outcome = "ok"
        return self.history

    def _begin(self) -> Transaction:
        with self._lock:
            transaction = Transaction(next(self._numbers))
            self.history.append(transaction)
            return transaction

    def _work(self, seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(LENGTH):
            transaction = self._begin()
            keys = choose.sample(range(KEYS), choose.randrange(1, 4))
            try:
                if choose.random() < 0.4:
                    self._read(transaction, keys, choose)
                else:
                    self._write(transaction, keys, choose)
                transaction.outcome = "ok"
            except InDoubt:
                transaction.outcome = "info"
            except (ShardpoolError, DBAPIError):
                transaction.outcome = "fail"

    def _read(self, transaction: Transaction, keys: list[int], choose: random.Random) -> None:
        begin = self.router.snapshot if self.snapshots else self.router.transaction
        with begin(**({} if self.snapshots else {"isolation": self.isolation})) as tx:
            found = {row.key: row.elements for row in tx.query("SELECT key, elements FROM lists").all()}
            transaction.operations += [Read(key, parsed(found[key])) for key in keys]

    def _write(self, transaction: Transaction, keys: list[int], choose: random.Random) -> None:
        with self.router.transaction(isolation=self.isolation) as tx:
            for key in sorted(keys):
                if choose.random() < 0.3:
                    query = "SELECT elements FROM lists WHERE key = :key FOR UPDATE"
                    found = tx.execute(key, query, {"key": key}).scalar_one()
                    transaction.operations.append(Read(key, parsed(found)))
                element = next(self._elements)
                transaction.operations.append(Append(key, element))
                tx.execute(key, APPEND, {"key": key, "element": str(element)})


def kinds(anomalies: list[str]) -> Counter[str]:
    return Counter(it.partition(":")[0] for it in anomalies)


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_snapshots_and_writers(lists: Router, isolation: str, moving: bool) -> None:
    """Writers of several shards, and readers of all at one cut; in the second half partitions move between them."""
    print(f"SHARDPOOL_SEED={SEED}")
    ended = threading.Event()

    def move() -> None:
        choose = random.Random(SEED)
        with Router(lists.config, listen=False) as mover:
            while not ended.is_set():
                partition = choose.choice(mover.shard_map.partitions).id
                others = sorted(set(mover.shard_map.shards) - {mover.shard_map.owner(partition).name})
                try:
                    move_partition(mover, partition, choose.choice(others))
                except ShardpoolError as error:
                    assert error.retryable, error
                mover.refresh()

    thread = threading.Thread(target=move)
    if moving:
        thread.start()
    try:
        history = Clients(lists, isolation, snapshots=True).run()
    finally:
        ended.set()
        if moving:
            thread.join()
    assert check(history) == []
    assert sum(it.outcome == "ok" for it in history) > len(history) / 4


def test_plain_readers_see_fractures_but_nothing_worse(lists: Router) -> None:
    """Without the one cut a reader may miss one half of a transaction; still nothing is lost or made up."""
    found = kinds(check(Clients(lists, "READ COMMITTED", snapshots=False).run()))
    assert set(found) <= {"G-single", "G1c"}, found


# -- the checker is checked -----------------------------------------------------------------------------------------


def history(*transactions: list[Append | Read], failed: int = -1) -> list[Transaction]:
    return [Transaction(n, found, "fail" if n == failed else "ok") for n, found in enumerate(transactions)]


A = Append
PLANTS: dict[str, list[Transaction]] = {
    "lost": history([A(1, 1)], [A(1, 2)], [Read(1, (2,))]),
    "aborted": history([A(1, 1)], [Read(1, (1,))], [Read(1, (1,))], failed=0),
    "intermediate": history([A(1, 1), A(1, 2)], [Read(1, (1,))], [Read(1, (1, 2))]),
    "internal": history([A(1, 1), Read(1, ())], [Read(1, (1,))]),
    "duplicate": history([A(1, 1)], [Read(1, (1, 1))]),
    "fork": history([A(1, 1)], [A(1, 2)], [A(1, 3)], [Read(1, (1, 2))], [Read(1, (1, 3, 2))]),
    "G0": history([A(1, 1), A(2, 1)], [A(1, 2), A(2, 2)], [Read(1, (1, 2)), Read(2, (2, 1))]),
    "G1c": history([A(1, 1), Read(2, (2,))], [A(2, 2), Read(1, (1,))], [Read(1, (1,)), Read(2, (2,))]),
    "G-single": history([A(1, 1), A(2, 1)], [Read(1, (1,)), Read(2, ())], [Read(1, (1,)), Read(2, (1,))]),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_anomaly_is_named(name: str) -> None:
    assert name in kinds(check(PLANTS[name]))


def test_a_good_history_has_none() -> None:
    good = history(
        [A(1, 1), A(2, 2)], [Read(1, (1,)), Read(2, (2,))], [A(1, 3), Read(1, (1, 3))], [Read(1, (1, 3)), Read(2, (2,))]
    )
    assert check(good) == []


def is_long(operation: Append | Read) -> bool:
    return isinstance(operation, Read) and len(operation.elements) > 2


def test_a_mutated_history_is_caught(lists: Router) -> None:
    """Real histories, in which one element of one read was dropped, doubled or swapped."""
    real = Clients(lists, "READ COMMITTED", snapshots=True).run()
    assert check(real) == []
    choose, caught = random.Random(SEED), 0
    long = [it for it in real if it.outcome == "ok" and any(map(is_long, it.operations))]
    for transaction in choose.sample(long, min(20, len(long))):
        place = next(n for n, operation in enumerate(transaction.operations) if is_long(operation))
        whole = transaction.operations[place]
        assert isinstance(whole, Read)
        at = choose.randrange(len(whole.elements) - 1)
        dropped = whole.elements[:at] + whole.elements[at + 1 :]
        swapped = (*whole.elements[:at], whole.elements[at + 1], whole.elements[at], *whole.elements[at + 2 :])
        for mutated in (dropped, swapped, (*whole.elements, whole.elements[0])):
            transaction.operations[place] = Read(whole.key, mutated)
            caught += bool(check(real))
        transaction.operations[place] = whole
    assert caught == 3 * min(20, len(long)) > 0
