"""The demo: nothing lost, all answers equal, readable in a pipe, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shardpool.cli.demo import data
from tests.cli.cli_tools import program, run


@pytest.fixture(scope="module")
def facts() -> Any:
    found = program("demo", "--json", "--scale", "0.001", timeout=120)
    assert found.err == ""
    assert found.code == 0, found.json["steps"]["rebalance"]["writer"]
    return found.json


def test_nothing_is_lost_and_all_is_equal(facts: Any) -> None:
    assert facts["ok"]
    assert facts["answers_equal"] and facts["orders_equal"]
    assert facts["lost_writes"] == facts["write_errors"] == 0
    assert facts["writes"] > 100
    assert facts["seconds"] < 60


def test_the_rebalance_moved_partitions_under_writes(facts: Any) -> None:
    steps = facts["steps"]
    assert facts["moved_partitions"] == len(steps["grow"]["plan"]["moves"]) > 0
    assert [len(it["partitions"]) for it in steps["load"]["map"]] == [6, 5, 5]
    assert [len(it["partitions"]) for it in steps["rebalance"]["map"]] == [4, 4, 4, 4]
    for name in ("quiet_ms", "moving_ms"):
        assert set(steps["rebalance"]["writer"][name]) == {"p50", "p99", "max"}


def test_the_picture_is_readable_in_a_pipe() -> None:
    environment = {**os.environ, "COLUMNS": "100"}
    command = [sys.executable, "-m", "shardpool", "demo", "--scale", "0.001"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    for words in ("shardpool demo", "s0", "pushdown", "✓ equal", "Before", "After", "lost afterwards", "done"):
        assert words in done.stdout
    assert "✗ differs" not in done.stdout


def _interrupted(process: subprocess.Popen[bytes]) -> bytes:
    """Press Ctrl-C, and again as a user would: Python loses an interrupt that comes inside of a finaliser."""
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=3)[1]
        except subprocess.TimeoutExpired:
            continue
    return process.communicate(timeout=45)[1]


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "shardpool", "demo", "--scale", "0.001"]
    tmp_path.chmod(0o777)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if b"2  " in line:  # the servers run
                break
        time.sleep(0.1)
        err = _interrupted(process)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert [it for it in tmp_path.iterdir() if "postgres" not in it.name] == []


def test_the_generator_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.shutil, "which", lambda *_, **__: None)
    found = run("demo", "--json")
    assert found.code == 1
    assert "pip install 'shardpool[local]'" in found.json["error"]["message"]
