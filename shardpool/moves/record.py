"""What identifies a move: its row in the catalog, and the names that it gives to things on the servers.

A change of partitions (split, merge, pin, unpin) is a move too. It has several sources or several targets, and its
*legs* are the pairs of them: a leg is what an ordinary move is, but that the partition arrives under another number.

Every name contains the move's id, which is never given again. So whatever a process that was left behind still does by
these names, it does to its own move, whose fate is decided once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from shardpool.topology.names import MAX_IDENTIFIER_BYTES, partition_schema

#: What becomes of writes while rows are copied: `block` makes them wait, `trigger` and `logical` note their keys.
#: `rename` copies none.
Mode = Literal["block", "trigger", "logical", "rename"]
#: `renumber`: the partition stays as it is, and where it is, and gets a number that no router knew before.
Kind = Literal["move", "split", "merge", "pin", "unpin", "renumber"]


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
    #: In a leg of a change of partitions: the number under which the target gets the rows.
    becomes: int | None = None

    @property
    def schema(self) -> str:
        """The partition's schema, by the name that statements use."""
        return partition_schema(self.keyspace, self.partition)

    @property
    def result(self) -> int:
        """The partition that the target gets."""
        return self.partition if self.becomes is None else self.becomes

    @property
    def result_schema(self) -> str:
        """The schema on the target, by the name that statements use."""
        return partition_schema(self.keyspace, self.result)

    @property
    def incoming(self) -> str:
        """The schema on the target until it is switched on."""
        return f"{self.result_schema}__incoming_{self.id}"

    @property
    def moved(self) -> str:
        """The schema on the source once it is fenced off."""
        return self.incoming if self.kind == "renumber" else f"{self.schema}__moved_{self.id}"

    @property
    def capture(self) -> str:
        """The schema on the source that has what notes the keys of changed rows, a publication of that name too."""
        return f"{self.schema}__capture_{self.id}"

    @property
    def ledger(self) -> str:
        """The schema on the target that says how far the copy is."""
        return f"{self.result_schema}__ledger_{self.id}"

    @property
    def kind(self) -> Kind:
        return cast(Kind, self.detail.get("kind", "move"))

    @property
    def bounds(self) -> Mapping[int, tuple[int, int]]:
        """Of a change of partitions: new partition -> its range of hashes, in their order."""
        return {it["partition"]: (it["low"], it["high"]) for it in self.detail.get("targets", ())}

    @property
    def legs(self) -> tuple[MoveRecord, ...]:
        """The pairs of one source and one target; of an ordinary move this is itself."""
        if self.kind == "move":
            return (self,)
        return tuple(
            replace(
                self,
                partition=source["partition"],
                source=source["shard"],
                epoch=source["epoch"],
                becomes=target["partition"],
                target=target["shard"],
            )
            for source in self.detail["sources"]
            for target in self.detail["targets"]
        )

    @property
    def shards(self) -> tuple[str, ...]:
        """All shards that take part."""
        return tuple(dict.fromkeys(shard for leg in self.legs for shard in (leg.source, leg.target)))

    @property
    def partitions(self) -> tuple[int, ...]:
        """All partitions that are given away or come to be."""
        return tuple(dict.fromkeys(number for leg in self.legs for number in (leg.partition, leg.result)))

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
        if self.kind == "move":
            return f"move {self.id} of partition {self.partition} from {self.source} to {self.target}"
        sources = _named([(it["partition"], it["shard"]) for it in self.detail["sources"]])
        targets = _named([(it["partition"], it["shard"]) for it in self.detail["targets"]])
        return f"{self.kind} {self.id} of {sources} into {targets}"


def _named(places: Sequence[tuple[int, str]]) -> str:
    what = "partition" if len(places) == 1 else "partitions"
    return f"{what} {', '.join(f'{number} on {shard}' for number, shard in places)}"
