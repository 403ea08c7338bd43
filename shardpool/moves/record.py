"""What identifies a move: its row in the catalog, and the names that it gives to things on the servers.

Every name contains the move's id, which is never given again. So whatever a process that was left behind still does by
these names, it does to its own move, whose fate is decided once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from shardpool.topology.names import MAX_IDENTIFIER_BYTES, partition_schema

#: What becomes of writes while rows are copied: `block` makes them wait, `trigger` notes their keys.
Mode = Literal["block", "trigger"]


@dataclass(frozen=True)
class MoveRecord:
    """A move as the catalog has it. `step` is the one that was about to run; `epoch` is the placement's at the start.

    Each process that works on the move has its own `attempt`; the catalog accepts nothing from an earlier one.
    """

    id: int
    keyspace: str
    partition: int
    source: str
    target: str
    attempt: int
    step: str
    epoch: int
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def schema(self) -> str:
        """The partition's schema, by the name that statements use."""
        return partition_schema(self.keyspace, self.partition)

    @property
    def incoming(self) -> str:
        """The schema on the target until it is switched on."""
        return f"{self.schema}__incoming_{self.id}"

    @property
    def moved(self) -> str:
        """The schema on the source once it is fenced off."""
        return f"{self.schema}__moved_{self.id}"

    @property
    def capture(self) -> str:
        """The schema on the source in which triggers note the keys of changed rows."""
        return f"{self.schema}__capture_{self.id}"

    @property
    def ledger(self) -> str:
        """The schema on the target that says how far the copy is."""
        return f"{self.schema}__ledger_{self.id}"

    @property
    def mode(self) -> Mode:
        return cast(Mode, self.detail.get("mode", "block"))

    @property
    def until(self) -> float | None:
        """For a way back that nobody works on: when it is given up, in seconds since 1970 by the catalog's clock."""
        found = self.detail.get("until")
        return None if found is None else float(found)

    @property
    def online(self) -> bool:
        """Whether writers go on while rows are copied."""
        return self.mode != "block"

    @property
    def session_name(self) -> str:
        """The application_name of the move's sessions, by which recovery finds them."""
        return f"shardpool move {self.id} {self.keyspace}"[:MAX_IDENTIFIER_BYTES]

    def __str__(self) -> str:
        return f"move {self.id} of partition {self.partition} from {self.source} to {self.target}"
