"""Schema changes: the user's own DDL, checked against what sharding can keep, applied to every partition or to none.

A script goes `script` (parsed, unqualified) -> `rules` (planned or refused: `refusals`) -> `log` (recorded) -> `change`
(executed and committed on all shards). `replay` builds a partition again elsewhere from the same log, and `drift` finds
where the servers have come to differ from it.
"""

from shardpool.ddl.apply import SchemaManager, StatementReport
from shardpool.ddl.drift import Drift, find_drift
from shardpool.ddl.refusals import REFUSALS, Refusal
from shardpool.ddl.rules import plan_statements
from shardpool.ddl.script import ParsedStatement, created_tables, parse_script
from shardpool.ddl.statement import DdlStatement

__all__ = [
    "REFUSALS",
    "DdlStatement",
    "Drift",
    "ParsedStatement",
    "Refusal",
    "SchemaManager",
    "StatementReport",
    "created_tables",
    "find_drift",
    "parse_script",
    "plan_statements",
]
