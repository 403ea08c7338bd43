"""Provisioning: making plain databases into the shards of a keyspace."""

from __future__ import annotations

from collections.abc import Mapping

from shardpool.catalog import Catalog, ShardIdentity
from shardpool.config import Config, catalog_password
from shardpool.ddl import SchemaManager
from shardpool.engines import Engines
from shardpool.errors import ConfigError


def identify(engines: Engines, shard: str) -> ShardIdentity:
    """Ask a shard which database it is. Raise `ShardUnavailable`."""
    with engines.borrow(shard) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT system_identifier::text, current_database() FROM pg_control_system()")
        return ShardIdentity(*cursor.fetchone())


def initialise(config: Config) -> None:
    """Create catalog, keyspace and schemas. Idempotent. Raise `ConfigError` if two shards are the same database."""
    engines = Engines(config)
    catalog = Catalog(config.catalog, config.keyspace, config.pool.connect_timeout, catalog_password(config))
    try:
        identities = {name: identify(engines, name) for name in config.shards}
        _check_different(config, identities)
        catalog.initialise(config, identities)
        manager = SchemaManager(catalog, engines)
        for name in catalog.load().shard_map.shards:
            manager.prepare_shard(name)
    finally:
        catalog.close()
        engines.close()


def _check_different(config: Config, identities: Mapping[str, ShardIdentity]) -> None:
    seen: dict[ShardIdentity, str] = {}
    for name, identity in identities.items():
        if identity in seen:
            expected = f"a database that no other shard is (it is the database of shards.{seen[identity]})"
            raise ConfigError(config.source, f"shards.{name}.url", config.shards[name].url, expected)
        seen[identity] = name
