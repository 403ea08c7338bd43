"""Bad configurations, servers that are gone, and passwords that are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardpool.local import LocalCluster
from tests.cli.cli_tools import run, write

MARK = "S3cretM4rk"

DOCUMENT = """
keyspace = "shop"
partitions = 8
catalog = "postgresql://app:S3cretM4rk@127.0.0.1:1/app"
[shards.s0]
url = "postgresql://app:S3cretM4rk@127.0.0.1:1/app"
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ("file", "No such file")),
        ("keyspace = ", ("file", "TOML")),
        (DOCUMENT.replace("8", '"many"'), ("partitions", "'many'", "an integer")),
        (DOCUMENT.replace("keyspace", "key_space"), ("key_space",)),
        (DOCUMENT.replace("postgresql://", "mysql://"), ("catalog", "mysql", "postgresql")),
        (DOCUMENT + "\n[pool]\nmin_size = 20\n", ("pool.min_size", "20", "at most")),
    ],
)
def test_a_bad_configuration(tmp_path: Path, text: str | None, words: tuple[str, ...]) -> None:
    path = tmp_path / "cluster.toml"
    if text is not None:
        write(path, text)
    for command in (("status",), ("query", "select 1"), ("doctor",), ("init",)):
        found = run(*command, config=path)
        assert found.code == 2
        assert found.out == ""
        assert found.err.startswith(f"error: {path}: ")
        assert all(word in found.err for word in words), found.err
        assert MARK not in found.err
        error = run(*command, "--json", config=path)
        assert error.json["error"]["type"] == "ConfigError"
        assert MARK not in error.out + error.err


def test_the_configuration_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHARDPOOL_CONFIG", str(tmp_path / "from-environment.toml"))
    assert "from-environment.toml" in run("status").err


def test_nobody_answers(tmp_path: Path) -> None:
    config = write(tmp_path / "cluster.toml", DOCUMENT)
    for command in (("status",), ("query", "select 1"), ("init",), ("rebalance", "--plan"), ("move", "recover")):
        found = run(*command, "--json", config=config)
        assert found.code == 3, found
        assert found.json["error"]["retryable"] is True
        assert MARK not in found.out + found.err
    doctor = run("doctor", "--json", config=config)
    assert doctor.code == 1
    assert "Connection refused" in doctor.out
    assert MARK not in doctor.out + doctor.err


def test_passwords_are_never_shown(shop: Path, cluster: LocalCluster, tmp_path: Path) -> None:
    text = shop.read_text(encoding="utf-8").replace("shardpool@", f"shardpool:{MARK}@")
    assert MARK in text
    config = write(tmp_path / "cluster.toml", text)
    new = cluster.add_shard("new")
    url = cluster.url(new).replace("shardpool@", f"shardpool:{MARK}@")
    commands: list[tuple[str, ...]] = [
        ("init",),
        ("status",),
        ("doctor", "--all"),
        ("query", "select count(*) from customers"),
        ("query", "select nothing from customers"),
        ("explain", "select count(*) from customers"),
        ("shard", "add", "new", url),
        ("shard", "add", "new", url),
        ("shard", "add", "bad", url.replace("/app", "")),
        ("shard", "add", "bad", f"postgresql://u:{MARK}@[nonsense/app"),
        ("shard", "add", "bad", f"postgresql://u:{MARK}@127.0.0.1:port/app"),
        ("shard", "add", "bad", f"postgresql://u:{MARK}@127.0.0.1:1/app"),
        ("rebalance", "--apply"),
        ("status",),
        ("shard", "drain", "new"),
        ("rebalance", "--apply"),
        ("shard", "remove", "new"),
    ]
    for command in commands:
        for options in ((), ("--json",)):
            found = run(*command, *options, config=config)
            assert MARK not in found.out + found.err, command
            assert "Traceback" not in found.err


def test_one_shard_is_gone(shop: Path, cluster: LocalCluster) -> None:
    cluster.kill("s1")
    try:
        status = run("status", config=shop)
        assert status.code == 3
        assert "unreachable" in status.out
        document = run("status", "--json", config=shop)
        assert document.code == 3
        assert [it["reachable"] for it in document.json["shards"]] == [True, False]
        query = run("query", "select count(*) from customers", "--json", config=shop)
        assert query.code == 3
        assert query.json["error"]["type"] in ("ShardUnavailable", "ScatterFailed")
        doctor = run("doctor", "--json", config=shop)
        assert doctor.code == 1
        assert {it["check"] for it in doctor.json["findings"] if it["state"] == "wrong"} == {"reachable"}
    finally:
        cluster.start("s1")
    assert run("doctor", config=shop).code == 0
