"""up: a cluster at a terminal, until Ctrl-C."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.cli_tools import SHOP_TABLES, run

SECONDS = 60.0


@contextmanager
def up(*arguments: object) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """Run ``up --json`` and wait for its document."""
    command = [sys.executable, "-m", "shardpool", "up", *map(str, arguments), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process, _document(process)
        finally:
            process.kill()


def _document(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    data, deadline = b"", time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 1.0)[0]:
            piece = os.read(process.stdout.fileno(), 1 << 16)
            data += piece
            if data.endswith(b"\n}\n"):
                found: dict[str, Any] = json.loads(data)
                return found
            if not piece:
                break
    raise AssertionError(f"no document: {data!r}")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cluster"


def test_a_cluster_until_ctrl_c(directory: Path) -> None:
    options = (directory, "--shards", 2, "--partitions", 4, "--keyspace", "shop")
    with up(*options) as (process, document):
        config = Path(document["config"])
        assert config == directory / "cluster.toml"
        assert run("status", "--json", config=config).json["partitions"] == 4
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
    assert run("status", config=config).code == 3
    with config.open("a", encoding="utf-8") as file:
        file.write(SHOP_TABLES)
    # The file is the user's by now: only addresses change, and new shards are added.
    with up(directory, "--shards", 3) as (process, document):
        text = config.read_text(encoding="utf-8")
        assert SHOP_TABLES in text
        assert document["keyspace"] == "shop"
        assert len(document["shards"]) == 2  # the third is not in the keyspace before `shard add`
        assert "[shards.s2]" in text
        process.terminate()
        assert process.wait(SECONDS) == 130


def test_a_temporary_cluster_leaves_nothing() -> None:
    with up("--shards", 1, "--partitions", 2) as (process, document):
        config = Path(document["config"])
        assert document["keyspace"] == "app"
        assert config.exists()
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
    assert not config.parent.exists()


def test_another_keyspace(directory: Path) -> None:
    with up(directory, "--shards", 1, "--partitions", 2) as (process, _):
        process.send_signal(signal.SIGINT)
        process.wait(SECONDS)
    found = run("up", directory, "--keyspace", "other")
    assert found.code == 2
    assert "'app'" in found.err
