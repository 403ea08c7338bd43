"""Golden plans: ``cases/*.txt``.

A case is a statement after ``===`` (with ``-- params: {json}`` before it if it has any), and after ``---`` what the
planner makes of it: the rung, the reasons against cheaper ones, the statement of one shard for its first partition, and
the merge. Or the error. `SHARDPOOL_ACCEPT=1` writes the files anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shardpool.errors import ShardpoolError
from shardpool.executor.explain import Explanation, shortened
from tests.oracle.corpus import parse_params
from tests.planner.hand_made import plan

CASES = Path(__file__).parent / "cases"
ACCEPT = os.environ.get("SHARDPOOL_ACCEPT") == "1"


@dataclass(frozen=True)
class Golden:
    """One case: the statement as it stands in the file, and the plan that is expected."""

    file: str
    statement: str
    expected: str

    @property
    def title(self) -> str:
        return f"{self.file}: {' '.join(self.statement.split())[:80]}"

    def actual(self) -> str:
        """Return what the planner makes of the statement now."""
        lines = self.statement.splitlines()
        params = {}
        if lines[0].startswith("-- params:"):
            params = parse_params(lines.pop(0).removeprefix("-- params:"))
        sql = "\n".join(lines)
        try:
            return _described(Explanation(sql, plan(sql, params)))
        except ShardpoolError as error:
            return f"error: {type(error).__name__}: {error}"


def _described(explanation: Explanation) -> str:
    facts = explanation.to_json()
    lines = [f"rung: {explanation.rung}"]
    lines += [f"not {reason.rung}: {reason.text}" for reason in explanation.reasons if reason.rung != "reference"]
    for stage in facts.get("stages", []):
        what = f"{stage['kind']} {stage['table']}{' (spread)' if stage['spread'] else ''}"
        lines += [f"{what}: {stage['sql']}"] if "sql" in stage else list(_one_shard(f"{what} from ", stage["shards"]))
    lines += list(_one_shard("", facts.get("shards", {})))
    if "merge" in facts:
        lines.append(f"merge: {facts['merge']}")
    return "\n".join(lines)


def _one_shard(prefix: str, shards: dict[str, dict[str, object]]) -> Iterator[str]:
    for shard, entry in list(shards.items())[:1]:
        partitions = entry["partitions"]
        others = f" and {len(shards) - 1} more" if len(shards) > 1 else ""
        yield f"{prefix}{shard} {partitions}{others}: {shortened(str(entry['sql'])).removesuffix(' UNION ALL ...')}"


def read(path: Path) -> list[Golden]:
    found = []
    for block in path.read_text(encoding="utf-8").split("===\n")[1:]:
        statement, _, expected = block.partition("---\n")
        found.append(Golden(path.name, statement.strip(), expected.strip()))
    return found


def write(path: Path, cases: list[Golden]) -> None:
    blocks = [f"===\n{case.statement}\n---\n{case.actual()}\n" for case in cases]
    path.write_text("\n".join(blocks), encoding="utf-8")


def all_cases() -> list[Golden]:
    found = []
    for path in sorted(CASES.glob("*.txt")):
        if ACCEPT:
            write(path, read(path))
        found += read(path)
    return found
