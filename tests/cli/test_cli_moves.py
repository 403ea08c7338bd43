"""shard, rebalance, move: a shard joins, takes partitions, is drained and leaves."""

from __future__ import annotations

from pathlib import Path

from shardpool.local import LocalCluster
from tests.cli.cli_tools import run


def count(config: Path) -> int:
    return int(run("query", "select count(*) from customers", "--json", config=config).json["rows"][0][0])


def homes(config: Path) -> dict[str, list[int]]:
    shards = run("status", "--json", config=config).json["shards"]
    return {it["name"]: [partition["id"] for partition in it["partitions"]] for it in shards}


def test_a_shard_joins_and_leaves(shop: Path, cluster: LocalCluster) -> None:
    new = cluster.add_shard("new")
    added = run("shard", "add", new, cluster.url(new), "--json", config=shop)
    assert added.code == 0
    assert added.json["state"] == "active"
    again = run("shard", "add", new, cluster.url(new), "--json", config=shop)
    assert again.code == 1
    assert again.json["error"]["type"] == "PreflightFailed"

    plan = run("rebalance", "--plan", "--by", "count", config=shop)
    assert plan.code == 0
    assert "imbalance by count 100%" in plan.out
    assert homes(shop)["new"] == []
    applied = run("rebalance", "--apply", "--by", "count", "--json", config=shop).json
    assert applied["applied"]
    assert len(applied["reports"]) == len(applied["moves"]) == 2
    assert all(it["pause"] > 0 and it["seconds"] > 0 for it in applied["reports"])
    assert len(homes(shop)["new"]) == 2
    assert count(shop) == 60
    assert "nothing to move" in run("rebalance", "--apply", "--by", "count", config=shop).out

    moved = run("move", "start", homes(shop)["s0"][0], "new", config=shop)
    assert moved.code == 0
    assert "moved from s0 to new" in moved.out
    assert run("move", "start", homes(shop)["s0"][0], "s0", config=shop).code == 1
    assert run("move", "start", 99, "s0", config=shop).code == 1
    assert run("move", "start", 0, "nowhere", config=shop).code == 1
    assert run("move", "status", "--json", config=shop).json == {"moves": []}
    assert run("move", "recover", "--json", config=shop).json == {"recovered": []}

    assert run("shard", "remove", "new", config=shop).code == 1
    drained = run("shard", "drain", "new", "--json", config=shop).json
    assert drained["state"] == "draining"
    assert drained["partitions"] == len(drained["plan"]["moves"]) == 3
    assert "is draining" in run("doctor", config=shop).out
    done = run("rebalance", "--apply", config=shop)
    assert done.code == 0
    assert "3 moves done" in done.out
    assert run("shard", "remove", "new", config=shop).code == 0
    assert set(homes(shop)) == {"s0", "s1"}
    assert count(shop) == 60
    assert run("shard", "drain", "nowhere", "--json", config=shop).json["error"]["type"] == "NoSuchShard"
