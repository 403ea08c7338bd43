"""The hand-written statements: ``corpus/*.sql``, one per paragraph, with directives in comments before them.

=======================  =============================================================================================
``-- rung: pushdown``    the rung that `explain` must name, with "some: " where keys prune the partitions
``-- params: {json}``    parameters; what JSON has not is written {"$date": "2024-01-31"}, see `VALUES`
``-- refused: SP104``    the sharded side must refuse with this code (plain PostgreSQL answers)
``-- ties``              the statement's ORDER BY leaves ties: rows that it does not tell apart may change places
``-- since: 18``         the oldest PostgreSQL that has what the statement uses
``-- bug: 7``            known to be wrong, see the number in the bug list; the test fails when it is mended
=======================  =============================================================================================
"""

from __future__ import annotations

import datetime
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"

#: How values are written that JSON does not have.
VALUES: Mapping[str, Callable[[Any], Any]] = {
    "$date": datetime.date.fromisoformat,
    "$time": datetime.time.fromisoformat,
    "$datetime": datetime.datetime.fromisoformat,
    "$interval": lambda seconds: datetime.timedelta(seconds=seconds),
    "$decimal": Decimal,
    "$float": float,
    "$uuid": uuid.UUID,
    "$bytes": bytes.fromhex,
    "$tuple": tuple,
}


@dataclass(frozen=True)
class Case:
    """One statement with its directives; `place` is where it stands."""

    place: str
    sql: str
    rung: str = ""
    refused: str = ""
    ties: bool = False
    bug: str = ""
    since: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)


def parse_params(text: str) -> dict[str, Any]:
    found = json.loads(text, object_hook=_value)
    assert isinstance(found, dict)
    return found


def _value(found: dict[str, Any]) -> Any:
    [name] = found if len(found) == 1 else [""]
    return VALUES[name](found[name]) if name in VALUES else found


def cases() -> Iterator[Case]:
    for path in sorted(CORPUS.glob("*.sql")):
        yield from read_cases(path.name, path.read_text(encoding="utf-8"))


def read_cases(name: str, text: str) -> Iterator[Case]:
    position = 1
    for paragraph in re.split(r"(\n\s*\n)", text):
        lines = paragraph.strip("\n").splitlines()
        directives = {}
        while lines and lines[0].startswith("--"):
            word, colon, rest = lines.pop(0)[2:].strip().partition(":")
            directives[word] = rest.strip() if colon else "yes"
        if any(lines):
            yield Case(
                f"{name}:{position}",
                "\n".join(lines).strip().removesuffix(";"),
                directives.get("rung", ""),
                directives.get("refused", ""),
                "ties" in directives,
                directives.get("bug", ""),
                int(directives.get("since", "0")),
                parse_params(directives.get("params", "{}")),
            )
        position += paragraph.count("\n")
