"""The coverage report: what is done with each column, and which kept ones look personal."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shardpool.engines import Engines
from shardpool.jobs.anonymise.change import PHONE, addresses
from shardpool.jobs.anonymise.decisions import Decision, Decisions
from shardpool.jobs.following import following_moves
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology

#: Rows of each table that are looked at, in its first partitions.
SAMPLE_ROWS, SAMPLE_PARTITIONS = 200, 4

_NAMES = re.compile(
    r"(^|_)(name|surname|firstname|lastname|e?mail|phone|mobile|fax|address|addr|street|city|zip|postcode|birth\w*|dob|"
    r"ssn|iban|passport|gender|ip|comment|note|notes|remark)s?($|_)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])")
_LOOKS: Sequence[tuple[str, Callable[[str], object]]] = (
    ("e-mail addresses", lambda value: any(addresses(value))),
    ("telephone numbers", PHONE.search),
    ("IP addresses", _ADDRESS.search),
)
_TEXT_TYPES = {"text", "character varying", "character", "json", "jsonb", "inet"}


@dataclass(frozen=True)
class Covered:
    """A column, what is done with it, and, if it is kept, why it may be personal."""

    table: str
    column: str
    rule: str
    follows: str = ""
    warning: str = ""


def coverage(router: Router, decisions: Decisions) -> list[Covered]:
    """Return a line per column. Reads samples of the tables with columns that are kept."""
    found = []
    for decision in decisions.values():
        warning = ""
        if decision.rule == "keep":
            warning = _by_name(decision) or _by_values(router, decision)
        found.append(Covered(decision.table, decision.column, decision.rule, decision.follows, warning))
    return sorted(found, key=lambda it: (it.table, it.column))


def _by_name(decision: Decision) -> str:
    return "its name looks personal" if _NAMES.search(decision.column) else ""


def _by_values(router: Router, decision: Decision) -> str:
    column = router.topology.tables[decision.table].column(decision.column)
    if column is None or column.base_type not in _TEXT_TYPES:
        return ""
    values = following_moves(router, lambda topology: _sample(router.engines, topology, decision))
    for what, has in _LOOKS:
        hits = sum(1 for value in values if has(value))
        if hits:
            return f"{hits} of {len(values)} values have {what}"
    return ""


def _sample(engines: Engines, topology: Topology, decision: Decision) -> Sequence[str]:
    """Return some values."""
    places = [(it.shard, it.partition.schema) for it in topology.shard_map.placements[:SAMPLE_PARTITIONS]]
    if not topology.tables[decision.table].sharded:
        places = [(min(topology.shard_map.shards), topology.keyspace)]
    found: list[str] = []
    for shard, schema in places:
        with engines.borrow(shard) as connection, connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {quote(decision.column)}::text FROM {quote(schema)}.{quote(decision.table)} "
                f"WHERE {quote(decision.column)} IS NOT NULL LIMIT {SAMPLE_ROWS:d}"
            )
            found += [value for (value,) in cursor.fetchall()]
    return found
