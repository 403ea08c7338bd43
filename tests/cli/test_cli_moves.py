"""shard, rebalance, move: a shard joins, takes partitions, is drained and leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from shardpool.local import LocalCluster
from tests.cli.cli_tools import run, write
from tests.support.waiting import eventually


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


def test_the_way_back_and_an_abort(shop: Path) -> None:
    partition = homes(shop)["s0"][0]
    started = run("move", "start", partition, "s1", "--keep", "600", "--json", config=shop)
    assert started.code == 0 and started.json["mode"] == "trigger"
    (kept,) = run("move", "status", "--json", config=shop).json["moves"]
    assert kept["until"] is not None and kept["target"] == "s0"
    assert "shardpool move back" in " ".join(run("move", "status", config=shop).out.split())
    back = run("move", "back", partition, "--json", config=shop)
    assert back.code == 0 and back.json["bytes"] == 0
    assert partition in homes(shop)["s0"]
    assert run("move", "back", partition, config=shop).code == 2
    assert run("move", "start", partition, "s1", "--mode", "quickly", config=shop).code == 2
    assert "does not move" in run("move", "abort", partition, config=shop).err
    assert run("move", "start", partition, "s1", "--keep", "600", config=shop).code == 0
    assert run("move", "abort", partition, "--json", config=shop).json["recovered"][0]["outcome"] == "undone"
    assert run("move", "start", partition, "s0", "--mode", "block", "--json", config=shop).json["mode"] == "block"
    logical = run("move", "start", partition, "s1", "--mode", "logical", "--json", config=shop).json
    assert (logical["mode"], logical["reason"]) == ("logical", "asked for")
    assert run("move", "start", partition, "s0", "--mode", "logical", config=shop).code == 0
    assert count(shop) == 60


def test_capacities_and_closed_shards(shop: Path) -> None:
    changed = run("shard", "set", "s1", "--capacity", "2", "--state", "closed", "--json", config=shop)
    assert changed.code == 0
    assert (changed.json["capacity"], changed.json["state"]) == (2.0, "closed")
    plan = run("rebalance", "--plan", "--by", "count", "--json", config=shop).json
    assert plan["moves"] == [] and plan["seconds"] == 0
    assert run("shard", "set", "s1", "--capacity", "1", "--state", "active", config=shop).code == 0
    assert run("shard", "set", "s1", "--state", "asleep", config=shop).code == 2
    assert run("rebalance", "--resume", config=shop).code == 2
    assert run("rebalance", "--plan", "--apply", config=shop).code == 2


def test_partitions_are_changed(shop: Path) -> None:
    first = homes(shop)["s0"][0]
    plan = run("partition", "split", first, "--to", "s1", "--plan", "--json", config=shop).json
    assert not plan["applied"] and [it["shard"] for it in plan["pieces"]] == ["s0", "s1"]
    assert first in homes(shop)["s0"]
    done = run("partition", "split", first, "--to", "s1", config=shop)
    assert done.code == 0
    assert "are copied, about" in done.out and f"split: {first} became" in done.out
    lower, upper = homes(shop)["s0"][0], homes(shop)["s1"][0]
    merged = run("partition", "merge", lower, upper, "--json", config=shop).json
    assert merged["applied"] and len(merged["report"]["partitions"]) == 1
    found = run("partition", "pin", 7, "--mode", "trigger", "--json", config=shop).json["report"]
    assert found["mode"] == "trigger"
    pinned = found["partitions"]
    assert "expected auto, trigger or logical" in run("partition", "pin", 8, "--mode", "block", config=shop).err
    assert "already" in run("partition", "pin", 7, config=shop).err
    assert run("partition", "unpin", pinned[1], "--json", config=shop).json["report"]["kind"] == "unpin"
    assert "no pinned key" in run("partition", "unpin", homes(shop)["s0"][0], config=shop).err
    assert f"no partition {first} any more" in run("partition", "split", first, config=shop).err
    assert run("partition", "pin", "seven", config=shop).code == 2
    assert count(shop) == 60
    assert run("doctor", config=shop).code == 0


def test_a_rebalance_by_processes_and_its_interruption(shop: Path, tmp_path: Path) -> None:
    """Ctrl-C at a terminal reaches the workers, too; what they were moving is undone, and nothing is left of them."""
    before = homes(shop)
    assert run("rebalance", "--plan", "--executor", "fibres", config=shop).code == 2
    assert run("shard", "drain", "s1", config=shop).code == 0
    slow = write(tmp_path / "slow.toml", shop.read_text() + "\n[moves]\nmax_rate = 100\n")
    command = ["rebalance", "--apply", "--parallel", "2", "--per-shard", "2", "--executor", "processes"]
    with subprocess.Popen(
        [sys.executable, "-m", "shardpool", *command, "--config", str(slow)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:

            def copying() -> int:
                moves = run("move", "status", "--json", config=shop).json["moves"]
                return sum(it["step"] == "copy" for it in moves)

            eventually(lambda: copying() == 2, "two move", 60)
            os.killpg(process.pid, signal.SIGINT)
            out, _ = process.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0 and "Traceback" not in out, out
    assert run("move", "status", "--json", config=shop).json == {"moves": []}
    assert homes(shop) == before
    resumed = run("rebalance", "--resume", "--executor", "processes", "--json", config=shop)
    assert resumed.code == 0 and len(resumed.json["reports"]) == len(before["s1"])
    assert run("shard", "set", "s1", "--state", "active", config=shop).code == 0
    assert count(shop) == 60
