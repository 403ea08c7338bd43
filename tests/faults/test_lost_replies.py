"""What is sent again: only what surely did nothing. A reply that got lost is an unknown outcome."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool.engines import prepared
from shardpool.errors import OutcomeUnknown, ShardUnavailable
from shardpool.executor import statements
from shardpool.executor.current import CurrentTopology
from tests.support.proxy import Cut
from tests.transactions.bank import Bank, open_bank

ADD = "UPDATE accounts SET amount = amount + 5 WHERE id = :key"


@pytest.fixture
def bank(server_urls: list[str]) -> Iterator[Bank]:
    with open_bank(server_urls) as found:
        yield found


def added(bank: Bank, key: int) -> int:
    """Add 5 to an account, the reply of which is lost; return what was added."""
    total = bank.total()
    cut = bank.lose(Cut(rb"amount = amount \+ 5", "reply"))
    try:
        with pytest.raises(OutcomeUnknown) as caught:
            bank.router.execute(key, ADD, {"key": key})
        assert not caught.value.retryable
    finally:
        bank.accept()
        assert cut.fired.is_set()
    return bank.total() - total


def test_a_write_whose_reply_is_lost_is_not_sent_again(bank: Bank) -> None:
    assert added(bank, bank.keys()[0]) == 5


def test_a_prepared_write_whose_reply_is_lost_is_not_sent_again(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """What prepares it has surely done nothing; what executes it may have."""
    monkeypatch.setattr(prepared, "PREPARED_AT", 1)
    key, total = bank.keys()[0], bank.total()
    for message, error in ((rb"PREPARE", ShardUnavailable), (rb"EXECUTE", OutcomeUnknown)):
        cut = bank.lose(Cut(message, "reply"))
        with pytest.raises(error):
            bank.router.execute(key, ADD, {"key": key})
        assert cut.fired.is_set()
        bank.accept()
        bank.router.execute(key, ADD, {"key": key})
    assert bank.total() - total == 5 + 5 + 5


def test_sent_again_it_is_noticed(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "is_stale", lambda error: True)
    monkeypatch.setattr(CurrentTopology, "moved", lambda self, topology, placements: True)
    total = bank.total()
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        added(bank, bank.keys()[0])
    assert bank.total() - total == 10
