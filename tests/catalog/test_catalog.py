"""The catalog: set up once, read at one snapshot, changed with a new epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from shardpool import Config, Router
from shardpool.catalog import Catalog, ShardIdentity
from shardpool.config import Endpoint
from shardpool.errors import CatalogMissing, CatalogUnavailable, MoveInProgress, NoSuchShard


@pytest.fixture
def catalog(config: Config) -> Iterator[Catalog]:
    found = Catalog(config.catalog, config.keyspace)
    yield found
    found.close()


def test_initialising_again_changes_nothing(config: Config, catalog: Catalog) -> None:
    before = catalog.load()
    Router.initialise(config)
    assert catalog.load().shard_map == before.shard_map
    assert [len(partitions) for partitions in before.shard_map.by_shard().values()] == [3, 3, 2]


def test_a_database_is_one_shard_only(catalog: Catalog) -> None:
    known = catalog.identities()["s1"]
    with pytest.raises(IntegrityError):
        catalog.add_shard("again", "postgresql://elsewhere/x", known)
    assert "again" not in catalog.load().shard_map.shards


def test_changes_raise_the_epoch(catalog: Catalog) -> None:
    before = catalog.epoch()
    catalog.add_shard("s9", "postgresql+psycopg2://app@db9/app", ShardIdentity("9", "app"))
    catalog.set_shard_state("s9", "draining")
    assert catalog.load().shard_map.shards["s9"].state == "draining"
    catalog.remove_shard("s9")
    assert catalog.epoch() == before + 3
    with pytest.raises(NoSuchShard):
        catalog.remove_shard("s9")
    with pytest.raises(NoSuchShard):
        catalog.set_shard_state("s9", "active")
    with pytest.raises(IntegrityError):
        catalog.remove_shard("s0")


def test_a_lock_has_one_holder(catalog: Catalog) -> None:
    def busy() -> MoveInProgress:
        return MoveInProgress("taken")

    with catalog.lock("one", busy):
        with pytest.raises(MoveInProgress), catalog.lock("one", busy):
            pass
        with catalog.lock("other", busy):
            pass
    with catalog.lock("one", busy):
        pass


def test_another_version_is_refused(catalog: Catalog) -> None:
    with catalog.begin() as connection:
        connection.execute(text("UPDATE shardpool_catalog.version SET version = 99"))
    try:
        with pytest.raises(CatalogMissing, match="version 99"):
            catalog.load()
    finally:
        with catalog.begin() as connection:
            connection.execute(text("UPDATE shardpool_catalog.version SET version = 1"))


def test_an_unknown_keyspace(config: Config) -> None:
    found = Catalog(config.catalog, "absent")
    with pytest.raises(CatalogMissing, match="absent"):
        found.load()
    found.close()


def test_an_unreachable_catalog(config: Config) -> None:
    nowhere = Catalog(Endpoint("postgresql+psycopg2://app@127.0.0.1:1/app"), "shop", connect_timeout=2)
    with pytest.raises(CatalogUnavailable) as caught:
        nowhere.load()
    assert caught.value.retryable
    nowhere.close()
    with pytest.raises(CatalogUnavailable):
        Router(replace(config, catalog=Endpoint("postgresql+psycopg2://app@127.0.0.1:1/app")))
