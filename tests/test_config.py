"""Configuration: every error names file, key, got and expected; passwords are never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shardpool import read_config
from shardpool.config import parse_config
from shardpool.errors import ConfigError

MARKER = "s3cr3t-marker"
URL = f"postgresql://app:{MARKER}@db0/app"


def document(**changes: Any) -> dict[str, Any]:
    return {"keyspace": "shop", "partitions": 8, "catalog": URL, "shards": {"s0": {"url": URL}}, **changes}


def test_passwords_are_held_apart() -> None:
    config = parse_config(document())
    endpoint = config.shards["s0"]
    assert MARKER not in repr(config) + str(config) + endpoint.url + str(endpoint.full_url()) + repr(
        endpoint.full_url()
    )
    assert endpoint.full_url().password == MARKER
    assert config.catalog.full_url().password == MARKER


def test_password_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", MARKER)
    entry = {"url": "postgresql://app@db0/app", "password_env": "SHOP_PASSWORD"}
    config = parse_config(document(shards={"s0": entry}, catalog="postgresql://app@db0/app"))
    assert config.catalog.full_url().password == MARKER
    monkeypatch.delenv("SHOP_PASSWORD")
    with pytest.raises(ConfigError, match="password_env"):
        parse_config(document(shards={"s0": entry}))


@pytest.mark.parametrize(
    ("changes", "key", "expected"),
    [
        ({"keyspace": "Shop"}, "keyspace", "lower case"),
        ({"keyspace": "public"}, "keyspace", "other than"),
        ({"partitions": "8"}, "partitions", "an integer"),
        ({"partitions": 0}, "partitions", "an integer"),
        ({"catalog": f"mysql://app:{MARKER}@db0/app"}, "catalog", "postgresql"),
        ({"catalog": f"postgresql://app:{MARKER}@db0"}, "catalog.url", "database name"),
        ({"shards": {"s0": {"url": f"postgresql://db0/app?password={MARKER}"}}}, "shards.s0.url", "password_env"),
        ({"shards": {}}, "shards", "table of shards"),
        ({"shards": {"s0": {"url": URL}, "s1": {"url": URL}}}, "shards.s1.url", "no other shard"),
        ({"shards": {"s0": {"ur": URL}}}, "shards.s0", "url"),
        ({"pool": {"min_size": 5, "max_size": 2}}, "pool.min_size", "max_size"),
        ({"pool": {"timeout": 0}}, "pool.timeout", "seconds"),
        ({"query": {"merge_node": "s9"}}, "query.merge_node", "one of s0"),
        ({"tables": {"orders": {"ky": "id"}}}, "tables.orders", "key"),
        ({"tables": {"orders": {"key": "x" * 64}}}, "tables.orders", "63"),
        ({"surprise": 1}, "(top level)", "only the keys"),
    ],
)
def test_errors_say_what_and_where(changes: dict[str, Any], key: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(document(**changes), source="cluster.toml")
    assert (caught.value.file, caught.value.key) == ("cluster.toml", key)
    assert expected in caught.value.expected
    assert MARKER not in str(caught.value) + repr(caught.value)


def test_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="readable file"):
        read_config(tmp_path / "absent.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("keyspace = ", encoding="utf-8")
    with pytest.raises(ConfigError, match="TOML"):
        read_config(bad)
