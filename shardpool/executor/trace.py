"""What running a query took, step by step: for `explain(analyze=True)`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from shardpool.planner.plan import Plan


@dataclass
class Step:
    """One step. `bytes` are those that travelled between servers; `rows` those that it gave."""

    name: str
    rows: int = 0
    bytes: int = 0
    milliseconds: float = 0.0


@dataclass
class Trace:
    """The plan that was run at last, and its steps."""

    plan: Plan | None = None
    steps: list[Step] = field(default_factory=list)
    rows: int = 0
    milliseconds: float = 0.0

    def begin(self, plan: Plan) -> None:
        """A plan is run; one that was tried before is forgotten."""
        self.plan = plan
        self.steps = []

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Measure a step. The caller fills in rows and bytes."""
        step = Step(name)
        started = time.perf_counter()
        try:
            yield step
        finally:
            step.milliseconds = (time.perf_counter() - started) * 1000
            self.steps.append(step)

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "milliseconds": round(self.milliseconds, 3),
            "steps": [
                {"name": it.name, "rows": it.rows, "bytes": it.bytes, "milliseconds": round(it.milliseconds, 3)}
                for it in self.steps
            ],
        }
