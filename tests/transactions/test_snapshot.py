"""Snapshots: all shards at one cut, while money moves between them."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy.exc

from shardpool import Router
from shardpool.errors import SnapshotTimeout, TransactionAborted
from shardpool.executor import snapshot as snapshots
from shardpool.two_phase import commit
from shardpool.two_phase.names import new_id
from tests.transactions.bank import ACCOUNTS, AMOUNT, Bank, open_bank

#: Reads of the default run; `SHARDPOOL_READS=100000` is the whole.
READS = int(os.environ.get("SHARDPOOL_READS", "300"))
SUM = "SELECT sum(amount) FROM accounts"


@pytest.fixture(scope="module")
def bank(server_urls: list[str]) -> Iterator[Bank]:
    with open_bank(server_urls) as found:
        yield found
        assert all(stats.in_use == 0 for stats in found.router.stats().pools.values())


class Writers:
    """Threads that transfer between three shards while the block runs. `done` counts."""

    def __init__(self, bank: Bank, threads: int = 4) -> None:
        self._bank, self._ended, self.done = bank, threading.Event(), 0
        self._threads = [threading.Thread(target=self._work, args=(seed,)) for seed in range(threads)]
        self.errors: list[BaseException] = []

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        assert self.errors == []

    def _work(self, seed: int) -> None:
        choose = random.Random(seed)
        try:
            while not self._ended.is_set():
                self._transfer(choose.sample(range(ACCOUNTS), 3))
                self.done += 1
        except BaseException as error:
            self.errors.append(error)

    def _transfer(self, keys: list[int]) -> None:
        with self._bank.router.transaction() as tx:
            for key in sorted(keys):
                amount = -2 if key == keys[0] else 1
                tx.execute(key, "UPDATE accounts SET amount = amount + :n WHERE id = :key", {"n": amount, "key": key})


def scatter(router: Router) -> int:
    return int(sum(amount for (amount,) in router.query("SELECT amount FROM accounts")))


def test_snapshots_are_whole_and_plain_scatters_are_not(bank: Bank, capsys: pytest.CaptureFixture[str]) -> None:
    router, fractured = bank.router, 0
    with Writers(bank) as writers:
        for _ in range(READS):
            fractured += scatter(router) != ACCOUNTS * AMOUNT
            with router.snapshot() as snap:
                first = sum(amount for (amount,) in snap.query("SELECT amount FROM accounts"))
                assert first == ACCOUNTS * AMOUNT
                assert snap.query(SUM).scalar_one() == ACCOUNTS * AMOUNT
    with capsys.disabled():
        print(f" [{READS} snapshots whole; {fractured} plain reads fractured, {writers.done} transfers] ", end="")
    assert fractured > 0, "the test does not show what snapshots are for"
    assert bank.total() == ACCOUNTS * AMOUNT


def test_without_the_gate_it_is_seen(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: writers that do not enter the gate."""
    monkeypatch.setattr(commit, "enter_gate", lambda keyspace: "")

    def fractured() -> bool:
        with bank.router.snapshot() as snap:
            return int(snap.query(SUM).scalar_one()) != ACCOUNTS * AMOUNT

    with Writers(bank):
        deadline = time.monotonic() + 30
        while not fractured():
            assert time.monotonic() < deadline, "the planted fault was not caught"


def test_a_report_of_many_queries_and_parallel_readers(bank: Bank) -> None:
    router = bank.router
    found: list[list[Any]] = []
    with Writers(bank), router.snapshot() as snap:
        shared = snap.export()
        detail = "SELECT id, amount FROM accounts ORDER BY id"
        first = snap.query(detail).all()

        def read() -> None:
            with Router(bank.config, listen=False) as other, other.snapshot(shared=shared) as same:
                found.append(same.query(detail).all())

        readers = [threading.Thread(target=read) for _ in range(3)]
        for thread in readers:
            thread.start()
        for thread in readers:
            thread.join()
        assert snap.query(detail).all() == first
        assert snap.execute(7, "SELECT amount FROM accounts WHERE id = 7").scalar_one() == dict(map(tuple, first))[7]  # type: ignore[arg-type]
    assert found == [first] * 3


def test_it_writes_nothing(bank: Bank) -> None:
    with (
        pytest.raises(TransactionAborted),
        bank.router.snapshot() as snap,
        pytest.raises(sqlalchemy.exc.InternalError, match="read-only"),
    ):
        snap.query("UPDATE accounts SET amount = 0")
    assert bank.total() == ACCOUNTS * AMOUNT


def test_waiting_is_bounded_and_writers_go_on(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction in doubt keeps the gate closed. It is resolved, or waited for until the time is up."""
    monkeypatch.setattr(snapshots, "_SETTINGS", snapshots._SETTINGS.replace("1000", "100"))
    transaction = new_id("bank", "s1")
    with bank.direct["s2"].cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE bank.shardpool_gate IN ROW EXCLUSIVE MODE")
        cursor.execute(f"PREPARE TRANSACTION '{transaction.gid(1)}'")
    began = time.monotonic()
    with pytest.raises(SnapshotTimeout, match=r"'s2'.*in doubt"):
        bank.router.snapshot(timeout=1.0)
    assert time.monotonic() - began < 4
    bank.transfer(bank.keys(), "while-it-waited")
    bank.router.resolve_transactions(older_than=0)
    with bank.router.snapshot() as snap:
        assert snap.query(SUM).scalar_one() == ACCOUNTS * AMOUNT


def test_a_frozen_reader_does_not_keep_writers_off(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that stops while it holds the gates: its servers end its sessions."""
    monkeypatch.setattr(snapshots, "_SETTINGS", snapshots._SETTINGS.replace("5000", "300"))
    monkeypatch.setattr(snapshots, "_OPEN", "SELECT 1")
    stopped = bank.router.snapshot()
    began = time.monotonic()
    bank.transfer(bank.keys(), "after-the-reader")
    assert time.monotonic() - began < 5
    stopped.rollback()
