"""Checks of the servers: what must be so on each, and what must agree on all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from shardpool.cli.checks.facts import ClusterFacts
from shardpool.cli.checks.finding import Finding, ok, warning, wrong
from shardpool.cli.values import duration

OLDEST = 14
#: Seconds by which clocks may differ before it is said.
SKEW = 0.5


def reachable(facts: ClusterFacts) -> Iterator[Finding]:
    """Every shard answers."""
    for name in sorted({*facts.servers, *facts.unreachable}):
        if name in facts.unreachable:
            yield wrong("reachable", name, facts.unreachable[name], "start the server, or correct its URL")
        else:
            yield ok("reachable", name, "answers")


def versions(facts: ClusterFacts) -> Iterator[Finding]:
    """PostgreSQL is new enough, and of one major version."""
    majors = {it.major for it in facts.servers.values()}
    for name, it in sorted(facts.servers.items()):
        if it.major < OLDEST:
            yield wrong("version", name, f"PostgreSQL {it.version}", f"shardpool needs PostgreSQL {OLDEST} or later")
        elif len(majors) > 1:
            hint = "bring all shards to one major version: results may differ between versions"
            yield warning("version", name, f"PostgreSQL {it.version}, others differ", hint)
        else:
            yield ok("version", name, f"PostgreSQL {it.version}")


def encodings(facts: ClusterFacts) -> Iterator[Finding]:
    """Databases are in UTF-8: keys are hashed as such."""
    for name, it in sorted(facts.servers.items()):
        if it.encoding == "UTF8":
            yield ok("encoding", name, it.encoding)
        else:
            yield wrong("encoding", name, it.encoding, "create the database with ENCODING 'UTF8'")


def collations(facts: ClusterFacts) -> Iterator[Finding]:
    """All sort alike: rows of several shards are merged by the order that each of them has."""
    counts = Counter(it.collation for it in facts.servers.values())
    usual = counts.most_common(1)[0][0] if counts else ""
    for name, it in sorted(facts.servers.items()):
        if it.collation == usual:
            yield ok("collation", name, it.collation)
        else:
            hint = f"create the database with the collation of the others ({usual})"
            yield wrong("collation", name, it.collation, hint)


def time_zones(facts: ClusterFacts) -> Iterator[Finding]:
    """Sessions have the configuration's time zone, which is the keyspace's."""
    expected = facts.config.timezone
    stored = facts.catalog.time_zone
    if stored and stored != expected:
        hint = f'write timezone = "{stored}" in {facts.config.source}: what was stored depends on it'
        yield wrong("time zone", "keyspace", f"{expected} in the configuration, {stored} in the catalog", hint)
    for name, it in sorted(facts.servers.items()):
        if it.time_zone == expected:
            yield ok("time zone", name, it.time_zone)
        else:
            hint = "a pooler in between may drop the start-up options that shardpool sends"
            yield wrong("time zone", name, f"{it.time_zone}, expected {expected}", hint)


def prepared_transactions(facts: ClusterFacts) -> Iterator[Finding]:
    """Work on several shards can be committed as one."""
    for name, it in sorted(facts.servers.items()):
        count = it.max_prepared_transactions
        if count > 0:
            yield ok("prepared transactions", name, f"max_prepared_transactions = {count}")
        else:
            hint = "set it to max_connections and restart: loads over several shards need two-phase commit"
            yield wrong("prepared transactions", name, "max_prepared_transactions = 0", hint)


def wal_levels(facts: ClusterFacts) -> Iterator[Finding]:
    """Changes can be followed by logical replication."""
    for name, it in sorted(facts.servers.items()):
        if it.wal_level == "logical":
            yield ok("wal_level", name, it.wal_level)
        else:
            hint = "set wal_level = logical and restart, to move partitions while they are written"
            yield warning("wal_level", name, it.wal_level, hint)


def clocks(facts: ClusterFacts) -> Iterator[Finding]:
    """Clocks agree with the one here, and so with each other."""
    for name, it in sorted(facts.servers.items()):
        detail = f"{it.skew * 1000:+.0f} ms from this machine (± {duration(it.precision)})"
        if abs(it.skew) - it.precision > SKEW:
            yield warning("clock", name, detail, "keep the machines' time with NTP: now() differs between shards")
        else:
            yield ok("clock", name, detail)


def identities(facts: ClusterFacts) -> Iterator[Finding]:
    """Each shard is a database of its own, and still the one that was registered."""
    first: dict[object, str] = {}
    for name, it in sorted(facts.servers.items()):
        registered = facts.catalog.identities.get(name)
        found = f"system {it.identity.system_identifier}, database {it.identity.database}"
        if it.identity in first:
            detail = f"the same database as shard {first[it.identity]}"
            yield wrong("identity", name, detail, "each shard needs a database of its own: correct the URLs")
        elif registered is not None and registered != it.identity:
            detail = f"{found}; registered was system {registered.system_identifier}, database {registered.database}"
            hint = f"correct the URL; or, if it was upgraded or restored, shardpool shard register {name}"
            yield wrong("identity", name, detail, hint)
        else:
            yield ok("identity", name, found)
        first.setdefault(it.identity, name)
