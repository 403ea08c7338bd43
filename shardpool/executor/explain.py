"""Explanations: a plan for people (`str`) and for programs (`to_json`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shardpool.executor.trace import Trace
from shardpool.planner.plan import (
    ByShard,
    Computed,
    Concatenation,
    GatherPlan,
    PartialRows,
    Plan,
    PushdownPlan,
    Reason,
    ReferencePlan,
    Relation,
    SinglePlan,
    Stage,
    StagesPlan,
    rung_of,
    union_all,
)
from shardpool.planner.writes import Step

#: All appended queries of a statement but the first.
_APPENDED = re.compile(r"(?: UNION ALL \(SELECT [^()]*\))+\) ")


@dataclass(frozen=True)
class Explanation:
    """What `Router.explain` returns. `plan` is the plan that a call with these parameters would run."""

    sql: str
    plan: Plan
    #: What running it took, if it was run.
    trace: Trace | None = None

    @property
    def rung(self) -> str:
        """single, reference, pushdown, stages or gather; "some: " before it if keys prune the partitions."""
        return rung_of(self.plan)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why each cheaper rung has no plan."""
        return self.plan.reasons

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain lists and dictionaries."""
        found: dict[str, Any] = {
            "sql": self.sql,
            "rung": self.rung,
            "reasons": [{"rung": reason.rung, "reason": reason.text} for reason in self.reasons],
        }
        match self.plan:
            case SinglePlan(placement, sql):
                found["shards"] = {placement.shard: {"partitions": [placement.partition.id], "sql": sql}}
                if self.plan.empty:
                    found["empty"] = True
            case ReferencePlan(sql):
                found["shards"] = {"any": {"partitions": [], "sql": sql}}
            case PushdownPlan():
                found.update(_pushdown(self.plan))
            case GatherPlan(relations, sql):
                found["stages"] = [_stage(relation) for relation in relations]
                found["merge"] = sql
            case StagesPlan(stages, then):
                found["stages"] = [_stage(stage) for stage in stages]
                found.update(_pushdown(then) if isinstance(then, PushdownPlan) else {"merge": then.sql})
        return found if self.trace is None else {**found, "analyze": self.trace.to_json()}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"rung: {self.rung}"
        for reason in self.reasons:
            yield f"  not {reason.rung}: {reason.text}"
        facts = self.to_json()
        if "empty" in facts:
            yield "no rows: the conditions contradict each other; asked once for the columns, then no shard is asked"
        for stage in facts.get("stages", []):
            columns = f" ({', '.join(stage['columns'])})" if "columns" in stage else ""
            yield f"{stage['kind']} {stage['table']}{columns}{_whereto(stage)}"
            if "sql" in stage:
                yield f"  {stage['sql']}"
            for shard, entry in stage.get("shards", {}).items():
                yield from _shard_lines(shard, entry, "  ")
        for shard, entry in facts.get("shards", {}).items():
            yield from _shard_lines(shard, entry, "")
        if "merge" in facts:
            yield f"merge: {facts['merge']}"
        if self.trace is not None:
            yield f"took {self.trace.milliseconds:.1f} ms, {self.trace.rows} rows"
            for step in self.trace.steps:
                yield f"  {step.name}: {step.rows:,} rows, {step.bytes:,} bytes, {step.milliseconds:.1f} ms"


@dataclass(frozen=True)
class WriteExplanation:
    """What `Router.explain` returns for a write: where it writes, or the plan of the query that finds its rows."""

    sql: str
    steps: tuple[Step, ...]
    #: A write in two halves, and why.
    find: Explanation | None = None
    reason: str = ""
    trace: None = None

    @property
    def rung(self) -> str:
        """single, partitions, copies (of a reference table), or "found first"."""
        if self.find is not None:
            return "found first"
        if any(step.placement is None for step in self.steps):
            return "copies"
        return "single" if len(self.steps) == 1 else "partitions"

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why it is not done by the user's own words."""
        return (Reason("partitions", self.reason),) if self.reason else ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain lists and dictionaries."""
        shards: dict[str, Any] = {}
        for step in self.steps:
            entry = shards.setdefault(step.shard, {"partitions": [], "sql": step.sql})
            entry["partitions"] += [step.placement.partition.id] if step.placement is not None else []
        found: dict[str, Any] = {
            "sql": self.sql,
            "rung": self.rung,
            "reasons": [{"rung": it.rung, "reason": it.text} for it in self.reasons],
            "shards": shards,
        }
        return found if self.find is None else {**found, "find": self.find.to_json()}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"rung: {self.rung}"
        for reason in self.reasons:
            yield f"  not {reason.rung}: {reason.text}"
        for shard, entry in self.to_json()["shards"].items():
            yield from _shard_lines(shard, entry, "")
        if self.find is not None:
            yield "its rows are found by"
            yield from (f"  {line}" for line in str(self.find).splitlines())
            yield "and written where they belong"


def _pushdown(plan: PushdownPlan) -> dict[str, Any]:
    merge = "concatenate" if isinstance(plan.merge, Concatenation) else plan.merge.sql
    return {"shards": _shards(plan.partial, plan.by_shard, plan.appended), "merge": merge}


def _stage(stage: Stage) -> dict[str, Any]:
    match stage:
        case Relation():
            found: dict[str, Any] = {"kind": "gather", "table": stage.table}
            found["columns"] = [column.name for column in stage.columns]
            found["shards"] = _shards(stage.select, stage.by_shard, stage.appended)
            if stage.divided_by:
                found["divided_by"] = stage.divided_by
        case PartialRows():
            found = {"kind": "collect", "table": stage.name}
            found["shards"] = _shards(stage.select, stage.by_shard, stage.appended)
        case Computed():
            found = {"kind": "compute", "table": stage.name, "sql": stage.sql}
    return {**found, "name": stage.name, "spread": stage.spread}


def _shards(partial: str, by_shard: ByShard, appended: str = "") -> dict[str, Any]:
    return {
        shard: {
            "partitions": [partition.id for partition in partitions],
            "sql": union_all(partial, partitions, appended),
        }
        for shard, partitions in by_shard.items()
    }


def _whereto(stage: Mapping[str, Any]) -> str:
    if "divided_by" in stage:
        return f", divided among all shards by {stage['divided_by']}"
    return ", copied to all shards" if stage["spread"] else ""


def _shard_lines(shard: str, entry: dict[str, Any], indent: str) -> Iterator[str]:
    count = len(entry["partitions"])
    yield f"{indent}{shard}, {count} partition{'s' if count != 1 else ''}: {shortened(entry['sql'])}"


def shortened(sql: str) -> str:
    """The first partition's statement, or its rows where a statement reads those of all, stand for all."""
    of_all = _APPENDED.sub(" UNION ALL ...) ", sql, count=1)
    if of_all != sql:
        return of_all
    first, union, _ = sql.partition(" UNION ALL ")
    return f"{first} UNION ALL ..." if union else first
