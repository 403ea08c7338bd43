"""What if: which statements of a query log would stay on one partition, if the tables were split as proposed."""

from __future__ import annotations

import datetime
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shardpool.errors import JobRefused, KeyTypeMismatch, ShardpoolError
from shardpool.planner.plan import Plan, PushdownPlan, ReferencePlan, SinglePlan
from shardpool.planner.statement import from_text
from shardpool.planner.writes import Apart, Staged, Steps, compile_statement
from shardpool.topology.key import KEY_TYPES, KeyType
from shardpool.topology.shard_map import ShardMap, Topology
from shardpool.topology.tables import Sharded, Table, TableKind

#: What becomes of a statement, best first.
ONE, ANY, SEVERAL, MOVED, REFUSED = "one partition", "any shard", "several partitions", "rows are moved", "refused"
#: Statements of a kind that are shown, and how much of each.
EXAMPLES, SHOWN = 3, 100

_COUNTED = re.compile(r"(\d+)\t(.*)", re.DOTALL)
_PARAMETER = re.compile(r"\$(\d+)")
#: The value of the nth parameter, if it is a key of that type.
_VALUES: Mapping[KeyType, Callable[[int], Any]] = {
    KeyType.INTEGER: int,
    KeyType.TEXT: str,
    KeyType.UUID: lambda n: uuid.UUID(int=n),
    KeyType.BYTEA: lambda n: b"%d" % n,
    KeyType.DATE: lambda n: datetime.date(2000, 1, 1) + datetime.timedelta(days=n),
}


@dataclass(frozen=True)
class Judged:
    """How often statements of each outcome are called; and some that do not stay on one partition, with the reason."""

    calls: Mapping[str, int]
    examples: Mapping[str, list[str]]


def judge_log(path: Path, tables: Mapping[str, Table], kinds: Mapping[str, TableKind], shard_map: ShardMap) -> Judged:
    """Plan each statement of a log, one per line, after its number of calls and a tab if these are known.

    Parameters ($1) are taken as different keys. Raise `JobRefused` if the file cannot be read.
    """
    topology = Topology("import", shard_map, {name: _keyed(tables[name], kind) for name, kind in kinds.items()})
    calls: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for count, sql in _statements(path):
        outcome, reason = _outcome(sql, topology)
        calls[outcome] += count
        shown = examples.setdefault(outcome, [])
        if outcome in (SEVERAL, MOVED, REFUSED) and len(shown) < EXAMPLES:
            shown.append(f"{sql[:SHOWN]}{f' ({reason})' if reason else ''}")
    return Judged(dict(calls), {outcome: shown for outcome, shown in examples.items() if shown})


def _statements(path: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise JobRefused(f"from.query_log cannot be read: {error}") from error
    for line in lines:
        counted = _COUNTED.fullmatch(line)
        count, sql = (int(counted[1]), counted[2]) if counted else (1, line)
        # As COPY writes the statements of pg_stat_statements.
        sql = sql.replace("\\n", "\n").replace("\\t", "\t").strip().rstrip(";")
        if sql:
            yield count, sql


def _outcome(sql: str, topology: Topology) -> tuple[str, str]:
    """Return the outcome of a statement, and the reason of a refusal."""
    names = sorted({int(number) for number in _PARAMETER.findall(sql)})
    types = {type_ for types in topology.key_types for type_ in types} or {KeyType.INTEGER}
    refusal = ""
    for type_ in sorted(types, key=list(_VALUES).index):
        values = {f"p{n}": _VALUES[type_](n) for n in names}
        try:
            statement = from_text(_PARAMETER.sub(r":p\1", sql))
            return _outcome_of(compile_statement(statement, topology).bind(values, topology)), ""
        except KeyTypeMismatch as error:
            refusal = str(error)
        except ShardpoolError as error:
            return REFUSED, str(error).splitlines()[0]
    return REFUSED, refusal


def _outcome_of(plan: Plan | Steps | Staged | Apart) -> str:
    match plan:
        case SinglePlan():
            return ONE
        case ReferencePlan():
            return ANY
        case Steps(steps=[step], copies=None) if step.placement is not None:
            return ONE
        case PushdownPlan() | Steps():
            return SEVERAL
    return MOVED


def _keyed(table: Table, kind: TableKind) -> Table:
    if not isinstance(kind, Sharded):
        return table
    types = [column.base_type for name in kind.columns if (column := table.column(name)) is not None]
    return replace(table, key=kind.columns, key_types=tuple(KEY_TYPES[it] for it in types))
