"""transactions: what a dead process left prepared is shown and finished."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shardpool import Router, read_config
from tests.cli.cli_tools import run


@pytest.fixture(autouse=True)
def _nothing_left(shop: Path) -> Iterator[None]:
    """A test that failed leaves nothing prepared: the next one would wait for its locks."""
    yield
    with Router.from_file(shop, listen=False) as router:
        router.resolve_transactions(older_than=0)
        assert router.transactions_in_doubt() == []


class Died(BaseException):
    """Stands for the end of the process."""


def leave_behind(config: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """Write two shards in a transaction whose process ends at *point*."""

    def end(name: str) -> None:
        if name == point:
            raise Died

    bounded = read_config(config)
    bounded = replace(bounded, pool=replace(bounded.pool, statement_timeout=20.0))
    with Router(bounded, listen=False) as router, monkeypatch.context() as patch:
        patch.setattr("shardpool.faults.fault_point", end)
        patch.setattr("shardpool.two_phase.commit._Commit._settle_interrupted", lambda self: "")
        with pytest.raises(Died), router.transaction() as tx:
            for key in range(4):
                tx.execute(key, "UPDATE customers SET name = 'new' WHERE customer_id = :key", {"key": key})


def test_none(shop: Path) -> None:
    assert run("transactions", "list", "--json", config=shop).json == {"transactions": []}
    assert "no transactions in doubt" in run("transactions", "list", config=shop).out
    assert run("transactions", "resolve", "--json", config=shop).json == {"resolved": [], "left": []}


@pytest.mark.parametrize(("point", "decision"), [("tx:prepared", "none yet"), ("tx:decided", "commit")])
def test_left_behind(shop: Path, monkeypatch: pytest.MonkeyPatch, point: str, decision: str) -> None:
    before = run("query", "select count(*) from customers where name = 'new'", "--json", config=shop).json["rows"]
    leave_behind(shop, monkeypatch, point)
    (found,) = run("transactions", "list", "--json", config=shop).json["transactions"]
    assert found["decision"] == decision
    assert found["shard"] != found["decider"]
    assert found["gid"].startswith(f"shardpool:tx:{found['transaction']}:")
    assert found["transaction"] in run("transactions", "list", config=shop).out.replace("\n", "")
    young = run("transactions", "resolve", "--older-than", 3600, "--json", config=shop)
    assert (young.code, young.json) == (0, {"resolved": [], "left": []})
    done = run("transactions", "resolve", "--older-than", 0, "--json", config=shop)
    assert done.code == 0
    assert [it["committed"] for it in done.json["resolved"]] == [decision == "commit"]
    after = run("query", "select count(*) from customers where name = 'new'", "--json", config=shop).json["rows"]
    assert (after == before) == (decision != "commit")
