"""transactions: what a dead process left prepared is shown and finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardpool import Router
from tests.cli.cli_tools import run


class Died(BaseException):
    """Stands for the end of the process."""


def leave_behind(config: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """Write two shards in a transaction whose process ends at *point*."""

    def end(name: str) -> None:
        if name == point:
            raise Died

    with Router.from_file(config, listen=False) as router, monkeypatch.context() as patch:
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
