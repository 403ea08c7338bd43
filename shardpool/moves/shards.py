"""Shards that join and leave."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from shardpool.catalog import ShardIdentity
from shardpool.config import Endpoint, parse_endpoint
from shardpool.ddl import SchemaManager, find_drift
from shardpool.engines import Engines
from shardpool.errors import ConfigError, DigestMismatch, NoSuchShard, PreflightFailed, ShardUnavailable
from shardpool.moves.journal import Journal
from shardpool.moves.layout import TableLayout, look_into, qualified, read_layout
from shardpool.moves.lock import lock_tables
from shardpool.moves.locks import keyspace_locked
from shardpool.moves.plan import RebalancePlan, plan_rebalance
from shardpool.moves.recovery import drop_leftovers, recover_moves
from shardpool.moves.relay import Relay
from shardpool.moves.server_facts import ServerFacts, differences, read_facts
from shardpool.moves.servers import configure
from shardpool.moves.verify import read_digests
from shardpool.provision import identify
from shardpool.router import Router
from shardpool.topology.shard_map import Topology

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def add_shard(router: Router, name: str, url: str | Endpoint) -> None:
    """Make an empty database a shard: it gets the schema and the rows of reference tables, but no partitions yet.

    A password in *url* serves only this call; it is not stored. Afterwards the router takes it from its configuration,
    its callable, or libpq's own sources. Raise `ConfigError` for a bad name or URL, `PreflightFailed` for a database
    that cannot be a shard of this keyspace, `ShardUnavailable`, and `MoveInProgress` during schema changes.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError("add_shard", "name", name, "up to 40 of a-z, 0-9, _ and -")
    endpoint = url if isinstance(url, Endpoint) else _endpoint(router, name, url)
    with keyspace_locked(router), router.engines.apart(name, endpoint) as engines:
        topology = router.catalog.load()
        facts = _check(router, topology, engines, name)
        SchemaManager(router.catalog, engines).prepare_shard(name)
        with _reference_rows_copied(router, topology, engines, name):
            # While reference tables are locked: who writes them later knows the shard.
            router.catalog.add_shard(name, endpoint.url, facts.identity)
    router.refresh()
    _check_reachable(router, name)


def drain_shard(router: Router, name: str) -> RebalancePlan:
    """Mark a shard as draining: it gets no more partitions. Return the plan that empties it, for `apply_rebalance`.

    Raise `NoSuchShard`, and `PreflightFailed` if no other shard would be left.
    """
    plan = plan_rebalance(router, drain=[name])
    router.catalog.set_shard_state(name, "draining")
    router.refresh()
    return plan


def remove_shard(router: Router, name: str) -> None:
    """Forget a shard that has no partitions. What else is in its database stays there.

    Raise `NoSuchShard`, and `PreflightFailed` if it is still needed.
    """
    recover_moves(router)
    with keyspace_locked(router):
        router.refresh()
        shard_map = router.topology.shard_map
        if name not in shard_map.shards:
            raise NoSuchShard(f"there is no shard {name!r} (known: {', '.join(sorted(shard_map.shards))})")
        partitions = shard_map.by_shard().get(name, ())
        failures = [f"partition {partition.id} is on shard {name}: drain it first" for partition in partitions]
        failures += [str(move) for move in Journal(router.catalog).running() if name in move.shards]
        failures += [f"{left} must be dropped first" for left in drop_leftovers(router) if left.shard == name]
        router.resolve_transactions()
        doubtful = [it for it in router.transactions_in_doubt() if name in (it.shard, it.transaction.decider)]
        failures += [f"transaction {it.transaction} is in doubt on shard {it.shard}: resolve it" for it in doubtful]
        if len(shard_map.shards) == 1:
            failures.append(f"shard {name} is the only one")
        if failures:
            raise PreflightFailed(failures)
        router.catalog.remove_shard(name)
    router.refresh()


def register_shard(router: Router, name: str) -> ShardIdentity:
    """Register the database that a shard's URL leads to in the place of the one that was: an upgrade to another major
    version, or a restore, is another server with the same partitions. Return what it is known by from now on.

    Whether its rows are the latest is for the caller to know. Raise `NoSuchShard`, `ShardUnavailable`, and
    `PreflightFailed` if it has not the tables that the catalog says, if it is another shard, or takes part in a move.
    """
    with keyspace_locked(router):
        topology = router.catalog.load()
        if name not in topology.shard_map.shards:
            raise NoSuchShard(f"there is no shard {name!r} (known: {', '.join(sorted(topology.shard_map.shards))})")
        identity = identify(router.engines, name)
        failures = [str(it) for it in find_drift(router.catalog, router.engines, topology) if it.shard == name]
        failures += [str(move) for move in Journal(router.catalog).running() if name in move.shards]
        failures += _known_as(router, identity, {name})
        if failures:
            raise PreflightFailed(failures)
        router.catalog.set_shard_identity(name, identity)
    return identity


# -- joining --------------------------------------------------------------------------------------------------------


def _endpoint(router: Router, name: str, text: str) -> Endpoint:
    """Split a URL into what may be stored and its password, or the one that the configuration has for it."""
    endpoint = parse_endpoint(text, "add_shard", name)
    configured = router.config.shards.get(name)
    if endpoint.password is None and configured is not None and configured.url == endpoint.url:
        return configured
    return endpoint


def _check(router: Router, topology: Topology, engines: Engines, name: str) -> ServerFacts:
    """Raise `PreflightFailed` unless the database can be a shard beside the others."""
    if name in topology.shard_map.shards:
        raise PreflightFailed([f"there is a shard {name} already"])
    with engines.borrow(name) as connection:
        facts = read_facts(connection)
    failures = _known_as(router, facts.identity)
    for other in sorted(topology.shard_map.shards):
        with router.engines.borrow(other) as connection:
            failures += differences(name, facts, other, read_facts(connection))
    if not facts.max_prepared_transactions:
        failures.append(
            f"max_prepared_transactions is 0 on shard {name}: loads into several shards need it (100 is a good value)"
        )
    if failures:
        raise PreflightFailed(failures)
    return facts


def _known_as(router: Router, identity: ShardIdentity, but: Collection[str] = ()) -> list[str]:
    """Return in words which shards, others than *but*, this database is already."""
    return [
        f"the database is shard {other} already (database {identity.database} of system {identity.system_identifier})"
        for other, known in router.catalog.identities().items()
        if known == identity and other not in but
    ]


@contextmanager
def _reference_rows_copied(router: Router, topology: Topology, engines: Engines, name: str) -> Iterator[None]:
    """Copy reference tables to a new shard, and keep their writers waiting while the block runs."""
    keyspace = topology.keyspace
    wanted = {table.name for table in topology.tables.values() if not table.sharded}
    origin = min(topology.shard_map.shards)
    with router.engines.borrow(origin) as source, engines.borrow(name) as target:
        for connection in (source, target):
            configure(connection, f"shardpool add shard {name}")
        if wanted:
            tables = [table for table in read_layout(source, keyspace) if table.name in wanted]
            names = [table.name for table in tables]
            lock_tables(source, keyspace, lambda: names, f"adding shard {name}")
            _copy_tables(source, target, keyspace, tables)
            here = read_digests(source, keyspace, keyspace, tables)
            there = read_digests(target, keyspace, keyspace, tables)
            if here != there:
                differing = ", ".join(table for table in names if here[table] != there[table])
                raise DigestMismatch(f"adding shard {name}: the copies of {differing} differ from those on {origin}")
            target.commit()
        yield


def _copy_tables(source: Any, target: Any, keyspace: str, tables: list[TableLayout]) -> None:
    look_into(target, keyspace, keyspace)
    with target.cursor() as cursor:
        cursor.execute(f"TRUNCATE {qualified(keyspace, tables)}")
    relay = Relay(source, [target], lambda size: None, lambda: None)
    for table in tables:
        relay.copy(table, keyspace, [keyspace])


def _check_reachable(router: Router, name: str) -> None:
    """Raise `ConfigError`, and forget the shard, if the router cannot connect to it by itself."""
    try:
        with router.engines.borrow(name):
            pass
    except ShardUnavailable as error:
        router.catalog.remove_shard(name)
        router.refresh()
        expected = "a password in the configuration (password_env), PGPASSWORD or ~/.pgpass: it is not stored"
        raise ConfigError("add_shard", "url", f"a shard that the router cannot reach ({error})", expected) from error
