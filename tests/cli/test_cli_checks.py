"""The checks as pure functions of facts: what no local server can be made to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shardpool import parse_config
from shardpool.catalog import ShardIdentity
from shardpool.cli.checks import examine
from shardpool.cli.checks.facts import CatalogFacts, ClusterFacts, ServerFacts

GOOD = ServerFacts(
    version="18.1",
    version_number=180001,
    encoding="UTF8",
    collation="builtin, locale C.UTF-8",
    time_zone="UTC",
    max_prepared_transactions=100,
    wal_level="logical",
    identity=ShardIdentity("1", "app"),
    skew=0.01,
    precision=0.001,
    prepared=(),
)


def judged(**changes: Any) -> set[tuple[str, str, str]]:
    """(check, subject, state) of what is not ok when shard b differs from shard a by *changes*."""
    names = ("a", "b")
    document = {
        "keyspace": "shop",
        "partitions": 4,
        "catalog": "postgresql://u@a/app",
        "shards": {name: {"url": f"postgresql://u@{name}/app"} for name in names},
    }
    other = replace(GOOD, **{"identity": ShardIdentity("2", "app"), **changes})
    catalog = CatalogFacts(None, "no map here", "UTC", {"a": GOOD.identity, "b": ShardIdentity("2", "app")})
    facts = ClusterFacts(parse_config(document), {"a": GOOD, "b": other}, {}, catalog, [])
    found = {(it.check, it.subject, it.state) for it in examine(facts) if it.state != "ok"}
    assert all(it.hint for it in examine(facts) if it.state != "ok")
    return found - {("shard map", "keyspace", "wrong")}


def test_good() -> None:
    assert judged() == set()


def test_each_difference() -> None:
    assert judged(version_number=130004, version="13.4") == {("version", "b", "wrong"), ("version", "a", "warning")}
    assert judged(version_number=170004) == {("version", "a", "warning"), ("version", "b", "warning")}
    assert judged(encoding="SQL_ASCII") == {("encoding", "b", "wrong")}
    assert judged(collation="libc, collate de_DE") == {("collation", "b", "wrong")}
    assert judged(time_zone="Asia/Tokyo") == {("time zone", "b", "wrong")}
    assert judged(max_prepared_transactions=0) == {("prepared transactions", "b", "wrong")}
    assert judged(wal_level="replica") == {("wal_level", "b", "warning")}
    assert judged(skew=-7.0) == {("clock", "b", "warning")}
    assert judged(skew=7.0, precision=8.0) == set()
    assert judged(identity=GOOD.identity) == {("identity", "b", "wrong")}
    assert judged(identity=ShardIdentity("3", "app")) == {("identity", "b", "wrong")}
    assert judged(prepared=[("shardpool:load:shop:1:b", 3600.0)]) == {("loads", "b", "wrong")}
    assert judged(prepared=[("shardpool:load:shop:1:b", 1.0)]) == set()
