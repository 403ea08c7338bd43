"""``shardpool job``: run, watch, stop, resume."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shardpool.local import LocalCluster
from tests.cli.cli_tools import program, run, write

SPEC = """
job = "anonymise"
name = "copy"
keep_tables = ["country", "orders", "order_items"]

[to]
directory = "out"

[secret]
env = "CLI_SECRET"

[tables.customers]
customer_id = "keep"
name = { rule = "mask" }
email = "scrub"
created_at = "keep"
country_code = "keep"
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLI_SECRET", "a secret of sixteen bytes")
    return write(tmp_path / "job.toml", SPEC)


def test_a_job(cluster: LocalCluster, shop: Path, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = run("job", "run", spec, "--dry-run", config=shop)
    assert planned.code == 0, planned.err
    assert "customers.email" in planned.out
    assert "user-" in planned.out  # a narrow terminal cuts the rest
    assert not (spec.parent / "out").exists()

    monkeypatch.setenv("SHARDPOOL_FAULT", "chunk-5-written:kill9")
    assert program("job", "run", spec, "--config", shop).code == -9
    monkeypatch.delenv("SHARDPOOL_FAULT")
    [found] = run("job", "status", "--json", config=shop).json["jobs"]
    assert (found["job"], found["kind"]) == ("copy", "anonymise")
    assert found["state"] in ("interrupted", "running")
    again = run("job", "run", spec, "--json", config=shop)
    assert (again.code, again.json["error"]["type"]) == (1, "JobRefused")

    resumed = run("job", "resume", "copy", config=shop)
    assert resumed.code == 0, resumed.err
    assert "job copy done" in resumed.out
    assert "62 rows" in resumed.out
    assert "done" in run("job", "status", config=shop).out
    assert "copy: done" in resumed.err


def test_ctrl_c_pauses(shop: Path, spec: Path) -> None:
    write(spec, SPEC.replace('name = "copy"', 'name = "slow"') + "[run]\nchunk_rows = 1\nworkers = 1\n")
    command = [sys.executable, "-m", "shardpool", "job", "run", str(spec), "--config", str(shop)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        while not list((spec.parent / "out").glob("*/*.csv")) and process.poll() is None:
            pass
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    [found] = [it for it in run("job", "status", "--json", config=shop).json["jobs"] if it["job"] == "slow"]
    assert found["state"] == "paused"
    assert 0 < found["progress"]["chunks_done"] < found["progress"]["chunks"]
    assert run("job", "resume", "slow", "--json", config=shop).json["rows"] == 62


def test_stopping_what_does_not_run(shop: Path) -> None:
    for verb in ("pause", "cancel", "resume"):
        done = run("job", verb, "nothing", config=shop)
        assert done.code == 1
        assert "no unfinished job 'nothing'" in done.err


def test_a_file_that_is_no_job(shop: Path, tmp_path: Path) -> None:
    done = run("job", "run", write(tmp_path / "job.toml", SPEC.replace("scrub", "scrubb")), config=shop)
    assert done.code == 2
    assert "tables.customers.email: got 'scrubb'" in done.err
