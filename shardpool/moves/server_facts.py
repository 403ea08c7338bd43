"""What must be the same on all shards for their rows, and the order of their texts, to mean the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shardpool.catalog import ShardIdentity

# As JSON, because PostgreSQL's versions name the columns differently.
_FACTS = """
SELECT (SELECT system_identifier::text FROM pg_control_system()), current_database(),
       current_setting('server_version_num')::int / 10000, pg_encoding_to_char(d.encoding),
       to_jsonb(d)->>'datcollate', to_jsonb(d)->>'datctype', to_jsonb(d)->>'datlocprovider',
       coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale'), to_jsonb(d)->>'datcollversion',
       current_setting('max_prepared_transactions')::int
FROM pg_database d WHERE d.datname = current_database()
"""


@dataclass(frozen=True)
class ServerFacts:
    """A server and its database, as far as shards must agree. Collation versions may be unknown (None)."""

    identity: ShardIdentity
    version: int
    encoding: str
    collation: str
    character_type: str
    locale_provider: str | None
    locale: str | None
    collation_version: str | None
    max_prepared_transactions: int


_SAME = {
    "version": "PostgreSQL's major version",
    "encoding": "the encoding",
    "collation": "the collation (datcollate)",
    "character_type": "the character type (datctype)",
    "locale_provider": "the locale provider",
    "locale": "the locale",
    "collation_version": "the version of the collation",
}


def read_facts(connection: Any) -> ServerFacts:
    with connection.cursor() as cursor:
        cursor.execute(_FACTS)
        system_identifier, database, *others = cursor.fetchone()
        return ServerFacts(ShardIdentity(system_identifier, database), *others)


def differences(name: str, facts: ServerFacts, other_name: str, other: ServerFacts) -> list[str]:
    """Return in words what differs that must not."""
    return [
        f"{what} is {getattr(facts, field)} on shard {name} and {getattr(other, field)} on shard {other_name}"
        for field, what in _SAME.items()
        if getattr(facts, field) != getattr(other, field)
    ]
