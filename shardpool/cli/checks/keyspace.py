"""Checks of the keyspace: its map, its tables, and what was left unfinished."""

from __future__ import annotations

from collections.abc import Iterator

from shardpool.cli.checks.facts import ClusterFacts
from shardpool.cli.checks.finding import Finding, ok, warning, wrong
from shardpool.cli.values import duration

KEYSPACE = "keyspace"
#: Seconds that a transaction may stay prepared before it is taken for forgotten.
FORGOTTEN = 60.0
#: Differences that are told one by one.
SHOWN_DRIFT = 20


def shard_map(facts: ClusterFacts) -> Iterator[Finding]:
    """The catalog answers, and its placements cover the hash space."""
    topology = facts.catalog.topology
    if topology is None:
        yield wrong(
            "shard map", KEYSPACE, facts.catalog.fault, "look at the catalog's server; shardpool init creates it"
        )
        return
    found = topology.shard_map
    detail = f"{len(found.partitions)} partitions on {len(found.by_shard())} shards, epoch {found.epoch}"
    yield ok("shard map", KEYSPACE, detail)
    for name in sorted(facts.config.shards.keys() - found.shards.keys()):
        yield warning(
            "shard map",
            name,
            "in the configuration, not in the catalog",
            f"shardpool shard add {name} URL, or remove [shards.{name}]",
        )
    for name, shard in sorted(found.shards.items()):
        if shard.state == "draining":
            yield warning("shard map", name, "is draining", f"shardpool rebalance --apply, shard remove {name}")


def schema_changes(facts: ClusterFacts) -> Iterator[Finding]:
    """No schema change stopped half way."""
    if facts.catalog.topology is None:
        return
    for statement in facts.catalog.running_ddl:
        hint = "finish it, or undo it if it is nowhere: shardpool doctor --repair"
        yield wrong("schema changes", KEYSPACE, f"unfinished: {' '.join(statement.split())[:100]}", hint)
    if not facts.catalog.running_ddl:
        yield ok("schema changes", KEYSPACE, "all finished")


def moves(facts: ClusterFacts) -> Iterator[Finding]:
    """No move is under way, and none left anything behind."""
    if facts.catalog.topology is None:
        return
    for move in facts.catalog.running_moves:
        hint = "if its process is dead: shardpool move recover"
        yield warning("moves", KEYSPACE, f"unfinished: {move}", hint)
    for leftover in facts.catalog.leftovers:
        yield warning("moves", KEYSPACE, f"left behind: {leftover}", "shardpool move recover")
    if not facts.catalog.running_moves and not facts.catalog.leftovers:
        yield ok("moves", KEYSPACE, "none under way, nothing left behind")


def loads(facts: ClusterFacts) -> Iterator[Finding]:
    """No transaction of ours waits for the second half of its commit."""
    waiting = 0
    for name, it in sorted(facts.servers.items()):
        for gid, age in it.prepared:
            if age > FORGOTTEN:
                waiting += 1
                hint = "it holds locks: finish it with shardpool doctor --repair"
                yield wrong("loads", name, f"prepared for {duration(age)}: {gid}", hint)
    if not waiting and facts.servers:
        yield ok("loads", KEYSPACE, "no forgotten transactions")


def references(facts: ClusterFacts) -> Iterator[Finding]:
    """Every reference table has the same rows on all shards."""
    if facts.references is None:
        return
    for table, rows in sorted(facts.references.items()):
        counts = ", ".join(f"{count:,} on {shard}" for shard, count in rows.items())
        hint = f"find out which copy is right, and make the others like it: doctor --reference {table}=SHARD"
        yield wrong("reference tables", KEYSPACE, f"{table} is not the same everywhere: rows {counts}", hint)
    if not facts.references:
        yield ok("reference tables", KEYSPACE, "the same rows on all shards")


def reservations(facts: ClusterFacts) -> Iterator[Finding]:
    """What must be unique over all partitions is reserved, and nothing else is."""
    for it in facts.catalog.unique_builds:
        hint = f"if its process is dead: shardpool unique add {it} goes on with it, unique drop {it} gives it up"
        yield warning("unique columns", KEYSPACE, f"{it.replace(' ', '.')} is being made unique", hint)
    for name, (rows, values) in sorted((facts.reservations or {}).items()):
        hint = "compare the two tables; writers that go around the router, or write meanwhile, make them differ"
        yield wrong("unique columns", KEYSPACE, f"{name} has {rows:,} rows for {values:,} values, or others", hint)
    if facts.reservations is not None and not facts.reservations and not facts.catalog.unique_builds:
        yield ok("unique columns", KEYSPACE, "all reserved")


def drift(facts: ClusterFacts) -> Iterator[Finding]:
    """Every partition has the tables that the catalog says."""
    if facts.drift is None:
        yield warning("drift", KEYSPACE, facts.drift_fault, "run doctor again when all shards answer")
        return
    for it in facts.drift[:SHOWN_DRIFT]:
        place = ".".join(part for part in (it.schema, it.table) if part)
        yield wrong("drift", it.shard, f"{place}: {it.message}", "make it as the others are, or as the catalog says")
    if len(facts.drift) > SHOWN_DRIFT:
        more = f"and {len(facts.drift) - SHOWN_DRIFT} more differences"
        yield wrong("drift", KEYSPACE, more, "correct those above first")
    if not facts.drift:
        yield ok("drift", KEYSPACE, "all partitions have the tables of the catalog")
