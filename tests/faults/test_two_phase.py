"""Two-phase commit with every message that can get lost: the caller is told the truth, and nothing stays in doubt."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg2
import pytest

from shardpool import Router
from shardpool.engines import prepared
from shardpool.errors import CannotPrepare, InDoubt, ShardUnavailable, TransactionAborted
from shardpool.local import LocalCluster
from shardpool.two_phase import commit, outcome, prepared_branches, resolve
from shardpool.two_phase.names import new_id, parse_gid, parse_id
from shardpool.two_phase.resolving import forget_old
from tests.support.backends import plain_connection
from tests.support.proxy import Cut
from tests.transactions.bank import ACCOUNTS, AMOUNT, DDL, TABLES, Bank, open_bank

#: What the coordinator sends. The decider is the one that gets a plain COMMIT.
RECORD = rb"INSERT INTO \"bank\"\.shardpool_transaction"
PREPARE = rb"PREPARE TRANSACTION"
DECISION = rb"COMMIT \x00"
SECOND = rb"COMMIT PREPARED"

_names = itertools.count()


@pytest.fixture(scope="module")
def opened(server_urls: list[str]) -> Iterator[Bank]:
    with open_bank(server_urls) as found:
        yield found


@pytest.fixture
def bank(opened: Bank, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bank]:
    monkeypatch.setattr(commit, "ASK_PATIENCE", 1.0)
    yield opened
    opened.accept()
    opened.router.resolve_transactions(older_than=0)
    assert opened.prepared() == []
    assert opened.total() == ACCOUNTS * AMOUNT
    assert all(stats.in_use == 0 for stats in opened.router.stats().pools.values())


def name() -> str:
    return f"t{next(_names)}"


@pytest.mark.parametrize("side", ["request", "reply"])
@pytest.mark.parametrize("message", [RECORD, PREPARE])
def test_before_the_decision_all_is_rolled_back(bank: Bank, message: bytes, side: Any) -> None:
    cut, transfer = bank.lose(Cut(message, side)), name()
    with pytest.raises(ShardUnavailable):
        bank.transfer(bank.keys(), transfer)
    assert cut.fired.is_set()
    bank.router.resolve_transactions(older_than=0)
    assert (bank.noted(transfer), bank.prepared()) == (0, [])


def test_a_decision_that_was_not_sent_is_none(bank: Bank) -> None:
    cut, transfer = bank.lose(Cut(DECISION, "request")), name()
    with pytest.raises(ShardUnavailable, match="rolled back on all shards"):
        bank.transfer(bank.keys(), transfer)
    assert cut.fired.is_set()
    assert (bank.noted(transfer), bank.prepared()) == (0, [])


def test_a_decision_whose_answer_was_lost_stands(bank: Bank) -> None:
    cut, transfer = bank.lose(Cut(DECISION, "reply")), name()
    bank.transfer(bank.keys(), transfer)
    assert cut.fired.is_set()
    assert (bank.noted(transfer), bank.prepared()) == (3, [])


@pytest.mark.parametrize("side", ["request", "reply"])
def test_after_the_decision_all_is_committed(bank: Bank, side: Any) -> None:
    cut, transfer = bank.lose(Cut(SECOND, side)), name()
    bank.transfer(bank.keys(), transfer)
    assert cut.fired.is_set()
    assert (bank.noted(transfer), bank.prepared()) == (3, [])


def shard_of(bank: Bank, cut: Cut) -> str:
    return next(shard for shard, proxy in bank.proxies.items() if proxy is cut.at)


@pytest.mark.parametrize(("side", "told"), [("request", "aborted"), ("reply", "committed")])
def test_without_the_decider_the_outcome_is_in_doubt(bank: Bank, side: Any, told: str) -> None:
    cut, transfer = bank.lose(Cut(DECISION, side, refuse=True)), name()
    with pytest.raises(InDoubt, match="is not known") as caught:
        bank.transfer(bank.keys(), transfer)
    assert caught.value.shard == shard_of(bank, cut) == parse_id(caught.value.txid).decider
    assert not caught.value.retryable
    with pytest.raises(ShardUnavailable):
        bank.router.outcome(caught.value.txid)
    # The others stay prepared as long as nobody can know.
    assert bank.router.resolve_transactions(older_than=0) == []
    assert len(bank.prepared()) == 2
    bank.accept()
    assert bank.router.outcome(caught.value.txid) == told
    assert len(bank.router.resolve_transactions(older_than=0)) == 2
    assert bank.noted(transfer) == (3 if told == "committed" else 0)
    assert bank.router.outcome(caught.value.txid) == told


def test_a_shard_that_cannot_be_told_catches_up(bank: Bank, caplog: pytest.LogCaptureFixture) -> None:
    cut, transfer = bank.lose(Cut(SECOND, "request", refuse=True)), name()
    with caplog.at_level(logging.WARNING, "shardpool"):
        bank.transfer(bank.keys(), transfer)
    assert f"shard {shard_of(bank, cut)} could not be told" in caplog.text
    assert bank.noted(transfer) == 2
    bank.accept()
    (resolved,) = bank.router.resolve_transactions(older_than=0)
    assert (resolved.shard, resolved.committed) == (shard_of(bank, cut), True)
    assert bank.noted(transfer) == 3


@pytest.mark.parametrize("prepared_at", [1, 1000])
@pytest.mark.parametrize(("side", "told"), [("request", "aborted"), ("reply", "committed")])
def test_one_shard_alone_can_be_asked_as_well(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, side: Any, told: str, prepared_at: int
) -> None:
    """Whether its record is a prepared statement or not."""
    monkeypatch.setattr(prepared, "PREPARED_AT", prepared_at)
    (key, *_), transfer = bank.keys(), name()
    cut = bank.lose(Cut(DECISION, side))
    if told == "committed":
        bank.transfer([key], transfer)
    else:
        with pytest.raises(ShardUnavailable, match="rolled back"):
            bank.transfer([key], transfer)
    assert cut.fired.is_set()
    assert bank.noted(transfer) == (told == "committed")
    transfer = name()
    bank.lose(Cut(DECISION, side, refuse=True))
    with pytest.raises(InDoubt) as caught:
        bank.transfer([key], transfer)
    bank.accept()
    assert bank.router.outcome(caught.value.txid) == told
    assert bank.noted(transfer) == (told == "committed")


def test_a_coordinator_that_hangs_is_ended_by_its_decider(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session stays open, in the middle of the decision: nobody can know until the decider ends that session."""
    monkeypatch.setattr(commit, "DECISION_TIME", 3.0)
    monkeypatch.setattr(commit, "ASK_PATIENCE", 0.1)
    monkeypatch.setattr("shardpool.two_phase.asking.LOCK_WAIT", 100)
    bank.lose(Cut(DECISION, "stall"))
    transfer = name()
    with pytest.raises(InDoubt) as caught:
        bank.transfer(bank.keys(), transfer)
    assert bank.router.resolve_transactions(older_than=0) == []
    assert len(bank.prepared()) == 2
    told = bank.router.outcome(caught.value.txid)
    assert told == "undecided"
    while told == "undecided":
        told = bank.router.outcome(caught.value.txid)
    assert told == "aborted"
    assert {it.committed for it in bank.router.resolve_transactions(older_than=0)} == {False}
    assert bank.noted(transfer) == 0


def test_many_resolvers_agree(bank: Bank) -> None:
    """Several at once, over what a coordinator left behind on both sides of its decision."""
    for message, expected in ((PREPARE, 0), (SECOND, 3)):
        transfer = name()
        threads = [
            threading.Thread(
                target=lambda: [bank.router.resolve_transactions(older_than=0) for _ in range(5)]  # type: ignore[func-returns-value]
            )
            for _ in range(4)
        ]
        bank.lose(Cut(message, "reply" if message is PREPARE else "request", refuse=True))
        if expected:
            bank.transfer(bank.keys(), transfer)
        else:
            with pytest.raises(ShardUnavailable):
                bank.transfer(bank.keys(), transfer)
        assert bank.prepared()
        bank.accept()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (bank.noted(transfer), bank.prepared()) == (expected, [])


def test_a_live_coordinator_wins_or_loses_but_never_both(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that takes everything for abandoned runs between any two steps of a commit."""
    seen: list[str] = []

    def meddle(point: str) -> None:
        seen.append(point)
        if threading.current_thread() is threading.main_thread() and point in ("tx:prepared", "tx:decided"):
            resolve(bank.router.engines, "bank", ["s0", "s1", "s2"], older_than=0)

    monkeypatch.setattr("shardpool.two_phase.asking.LOCK_WAIT", 50)
    monkeypatch.setattr("shardpool.faults.fault_point", meddle)
    transfer = name()
    bank.transfer(bank.keys(), transfer)
    assert bank.noted(transfer) == 3
    assert {"tx:recorded", "tx:prepared-one", "tx:prepared", "tx:decided", "tx:committed-one"} <= set(seen)


def test_who_asks_first_decides(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that somebody asked about before its record was written can never be committed any more."""
    asked = new_id("bank", "s1")
    assert bank.router.outcome(str(asked)) == "aborted"
    with bank.router.shard("s1").engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT committed FROM bank.shardpool_transaction").all()
    assert (False,) in rows
    real = commit._Commit.__init__

    def same_id(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        self.id = asked
        self._gids = {shard: asked.gid(number) for number, shard in enumerate(("s0", "s2"))}

    monkeypatch.setattr(commit._Commit, "__init__", same_id)
    transfer = name()
    with pytest.raises(TransactionAborted, match="somebody asked"):
        bank.transfer(bank.keys(), transfer)
    assert bank.noted(transfer) == 0


def test_only_our_own_transactions_are_touched(bank: Bank) -> None:
    foreign = [
        "other application",
        "shardpool:",
        "shardpool:tx:bank",
        "shardpool:tx:banker:s1:" + "0" * 32 + ":0",
        "shardpool:tx:bank:s1:not-a-token:0",
        "shardpool:tx:bank:s1:" + "0" * 32,
        "shardpool:txbank:s1:" + "0" * 32 + ":0",
    ]
    for gid in foreign:
        with bank.direct["s1"].cursor() as cursor:
            cursor.execute(f"BEGIN; CREATE TABLE x{abs(hash(gid))} (); PREPARE TRANSACTION '{gid}'")
    try:
        assert bank.router.resolve_transactions(older_than=0) == []
        left = {
            gid for (gid,) in bank.on("s1", "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
        }
        assert left == set(foreign)
        assert prepared_branches(bank.router.engines, "bank", "s1") == []
    finally:
        for gid in foreign:
            with bank.direct["s1"].cursor() as cursor:
                cursor.execute(f"ROLLBACK PREPARED '{gid}'")


def test_old_decisions_are_forgotten_only_when_nobody_needs_them(bank: Bank) -> None:
    bank.lose(Cut(SECOND, "request", refuse=True))
    transfer = name()
    bank.transfer(bank.keys(), transfer)
    bank.accept()
    (gid,) = bank.prepared()
    owner = parse_gid(gid)
    assert owner is not None
    shards = list(bank.proxies)
    forget_old(bank.router.engines, "bank", shards, retention=0)
    kept = bank.each("SELECT id FROM bank.shardpool_transaction")
    assert kept == [(str(owner),)]
    bank.proxies["s2"].refuse()
    forget_old(bank.router.engines, "bank", shards, retention=0)
    bank.proxies["s2"].refuse(False)
    assert bank.each("SELECT id FROM bank.shardpool_transaction") == kept
    assert len(bank.router.resolve_transactions(older_than=0)) == 1
    assert bank.noted(transfer) == 3
    assert forget_old(bank.router.engines, "bank", shards, retention=0) == 1
    assert outcome(bank.router.engines, owner) == "aborted"  # as told: only for who was not told before


def test_told_outcomes_are_forgotten_at_once(bank: Bank) -> None:
    forget_old(bank.router.engines, "bank", list(bank.proxies), retention=0)
    bank.transfer(bank.keys(), name())
    coordinator = bank.router._around.coordinator
    coordinator.forget()
    assert len(bank.each("SELECT id FROM bank.shardpool_transaction")) == 1
    coordinator.forget(age=0)
    assert bank.each("SELECT id FROM bank.shardpool_transaction") == []


@pytest.fixture
def small() -> Iterator[Router]:
    """Two servers that prepare nothing and take few connections."""
    settings = {"max_prepared_transactions": 0, "max_connections": 12, "superuser_reserved_connections": 1}
    with (
        LocalCluster(shards=2, partitions=4, keyspace="bank", settings=settings) as cluster,
        cluster.router(listen=False) as router,
    ):
        router.create_schema(DDL, TABLES)
        router.execute(1, "INSERT INTO accounts VALUES (1, 100)")
        yield router


def test_servers_that_prepare_nothing_or_are_full(small: Router) -> None:
    here = small.shard_of(1).name
    stranger = next(key for key in range(2, 99) if small.shard_of(key).name != here)
    there = small.shard_of(stranger).name
    with pytest.raises(CannotPrepare, match="max_prepared_transactions"), small.transaction() as tx:
        tx.execute(1, "UPDATE accounts SET amount = 0")
        tx.execute(stranger, "INSERT INTO accounts VALUES (:key, 1)", {"key": stranger})
    assert small.query("SELECT id, amount FROM accounts").all() == [(1, 100)]
    with pytest.raises(CannotPrepare):
        small.query("INSERT INTO accounts VALUES (1, 100), (:key, 1) ON CONFLICT DO NOTHING", {"key": stranger})
    with small.transaction() as tx:  # one shard needs no preparation
        tx.execute(1, "UPDATE accounts SET amount = 7")
        assert tx.query("SELECT sum(amount) FROM accounts").scalar_one() == 7
    with ExitStack() as held, Router(small.config, listen=False) as fresh:
        with pytest.raises(psycopg2.OperationalError):
            while True:
                held.callback(plain_connection(small.shard(there).shard.url).close)
        with pytest.raises(ShardUnavailable, match=there), fresh.transaction() as tx:
            tx.execute(1, "UPDATE accounts SET amount = 8")
            tx.execute(stranger, "SELECT 1 FROM accounts")
    assert small.query("SELECT amount FROM accounts").all() == [(7,)]
    assert all(stats.in_use == 0 for stats in small.stats().pools.values())
