"""The bank under faults: coordinators that are killed or frozen, servers that crash, messages that are lost.

Each round starts a process with 16 threads of transfers over three shards, lets one thing happen, resolves, and checks
that every transfer is whole or not there at all, that nobody was told otherwise, and that no money came or went.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardpool.local import LocalCluster
from shardpool.two_phase import resolving
from tests.support.proxy import Cut
from tests.support.waiting import eventually
from tests.transactions.bank import ACCOUNTS, AMOUNT, Bank, open_bank
from tests.transactions.tellers import POINTS, Order, Teller

SEED = int(os.environ.get("SHARDPOOL_SEED", "0")) or random.randrange(1, 10**6)
#: Rounds with a SIGKILL in the default run; `SHARDPOOL_KILLS=200` is the whole.
KILLS = int(os.environ.get("SHARDPOOL_KILLS", "7"))
#: Nothing may stay in doubt longer than this, in seconds, once the resolver may work.
RESOLVED_WITHIN = 5.0

MESSAGES = (rb"shardpool_transaction", rb"PREPARE TRANSACTION", rb"COMMIT \x00", rb"COMMIT PREPARED")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(shards=3, keyspace="bank") as found:
        yield found


@pytest.fixture(scope="module")
def bank(cluster: LocalCluster) -> Iterator[Bank]:
    with open_bank([cluster.url(name) for name in cluster.names]) as found:
        yield found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    print(f"SHARDPOOL_SEED={SEED}")
    return tmp_path / "log"


def resolve(bank: Bank, within: float = RESOLVED_WITHIN, alive: bool = False) -> None:
    """Let two resolvers work until nothing is prepared, and unless the teller is *alive* its sessions have ended: a
    server may finish what a dead process had sent, also a PREPARE."""
    busy = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )

    def nothing_left() -> bool:
        threads = [threading.Thread(target=bank.router.resolve_transactions, args=(0,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (alive or not bank.each(busy)) and not bank.prepared()

    eventually(nothing_left, "transactions in doubt", within)


def served(bank: Bank, teller: Teller) -> int:
    """Return the teller's exit code. Resolvers work meanwhile: its threads may wait for what is in doubt."""

    def ended() -> bool:
        bank.router.resolve_transactions(older_than=0)
        return teller.ended

    eventually(ended, "the teller's end", 60)
    return teller.end()


def violations(bank: Bank, log: Path) -> list[str]:
    """Return what is wrong with the bank, given what its tellers were told."""
    noted: dict[str, int] = {}
    for (name,) in bank.partitions("SELECT transfer FROM {}.transfers"):
        noted[name] = noted.get(name, 0) + 1
    parts: dict[str, int] = {}
    told: dict[str, tuple[str, str]] = {}
    for line in log.read_text().splitlines():
        name, word, rest = (*line.split(" ", 2), "")[:3]
        if word == "begun":
            parts[name] = len(rest.split(","))
        else:
            told[name] = (word, rest)
    wrong = [f"total {bank.total()}"] if bank.total() != ACCOUNTS * AMOUNT else []
    for name, count in parts.items():
        found, (word, rest) = noted.get(name, 0), told.get(name, ("", ""))
        if word == "doubt":
            word = {"committed": "ok", "aborted": "failed"}[bank.router.outcome(rest)]
        expected = {"ok": {count}, "failed": {0}, "": {0, count}}[word]
        if found not in expected:
            wrong.append(f"{name} was told {word or 'nothing'!r} {rest}, and is on {found} of {count} accounts")
    return wrong + [f"{name} was never begun" for name in noted if name not in parts and not name.startswith("old")]


def start_afresh(bank: Bank) -> None:
    bank.accept()
    bank.partitions("TRUNCATE {0}.transfers; SELECT 1 WHERE false")


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_coordinators(bank: Bank, log: Path, number: int) -> None:
    start_afresh(bank)
    choose = random.Random(SEED * 1000 + number)
    point = POINTS[number % len(POINTS)]
    teller = Teller(Order(bank.config, log, number, transfers=30, point=point, hit=choose.randrange(1, 60)))
    assert teller.end() == -signal.SIGKILL
    resolve(bank)
    assert violations(bank, log) == []


@pytest.mark.parametrize("number", range(max(2, KILLS // 10)))
def test_frozen_coordinators_wake_after_the_resolver(bank: Bank, log: Path, number: int) -> None:
    start_afresh(bank)
    choose = random.Random(SEED * 2000 + number)
    point = ("tx:prepared", "tx:decided", "tx:recorded", "tx:prepared-one", "tx:committed-one")[number % 5]
    order = Order(bank.config, log, 10_000 + number, 10, point, choose.randrange(1, 40), signal.SIGSTOP)
    teller = Teller(order)
    eventually(lambda: teller.frozen or teller.ended, "the teller is frozen")
    assert teller.frozen
    resolve(bank, within=2.0 + RESOLVED_WITHIN, alive=True)  # its deciders end its sessions after 2 s
    teller.thaw()
    assert teller.end() == 0
    resolve(bank)
    assert violations(bank, log) == []


@pytest.mark.parametrize("side", ["request", "reply"])
@pytest.mark.parametrize("message", MESSAGES)
def test_lost_messages(bank: Bank, log: Path, message: bytes, side: str) -> None:
    start_afresh(bank)
    cut = bank.lose(Cut(message, side))  # type: ignore[arg-type]
    assert served(bank, Teller(Order(bank.config, log, 20_000, transfers=5))) == 0
    assert cut.fired.is_set()
    resolve(bank)
    assert violations(bank, log) == []


@pytest.mark.parametrize("number", range(max(2, KILLS // 10)))
def test_crashing_servers(cluster: LocalCluster, bank: Bank, log: Path, number: int) -> None:
    """A server dies while transactions commit on it, and is back a moment later."""
    start_afresh(bank)
    shard = f"s{(SEED + number) % 3}"
    order = Order(bank.config, log, 30_000 + number, transfers=20)
    teller = Teller(order)
    eventually(lambda: log.exists() and log.read_bytes().count(b" ok") > 20, "work")
    cluster.kill(shard)
    cluster.start(shard)
    bank.reconnect(shard)
    assert served(bank, teller) == 0
    resolve(bank)
    assert violations(bank, log) == []


# -- the checks are checked -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("plant", ["decide-first", "one-after-another"])
def test_a_planted_coordinator_is_caught(bank: Bank, log: Path, plant: str) -> None:
    start_afresh(bank)
    point = {"decide-first": "tx:decided", "one-after-another": "tx:prepared-one"}[plant]
    assert Teller(Order(bank.config, log, 40_000, 5, point, 1, plant=plant)).end() == -signal.SIGKILL
    resolve(bank)
    assert any(" of " in it for it in violations(bank, log))
    make_good(bank)


def test_a_planted_lie_is_caught(bank: Bank, log: Path) -> None:
    start_afresh(bank)
    bank.lose(Cut(rb"COMMIT \x00", "reply"))
    assert Teller(Order(bank.config, log, 50_000, 5, plant="lie")).end() == 0
    resolve(bank)
    assert any("was told 'failed'" in it for it in violations(bank, log))
    make_good(bank)


def test_a_planted_resolver_is_caught(bank: Bank, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that rolls back whatever is old, without asking."""
    start_afresh(bank)
    assert Teller(Order(bank.config, log, 60_000, 5, "tx:decided", 1)).end() == -signal.SIGKILL
    with monkeypatch.context() as patch:
        patch.setattr(resolving, "outcome", lambda engines, transaction: "aborted")
        resolve(bank)
    assert any(" of " in it for it in violations(bank, log))
    make_good(bank)


def make_good(bank: Bank) -> None:
    """Set the accounts right again."""
    bank.partitions(f"UPDATE {{0}}.accounts SET amount = {AMOUNT}; TRUNCATE {{0}}.transfers; SELECT 1 WHERE false")
