"""What moves are under way."""

from __future__ import annotations

from dataclasses import dataclass

from shardpool.moves.journal import Journal
from shardpool.moves.recovery import FROZEN_AFTER
from shardpool.moves.steps import STEPS
from shardpool.router import Router

_DESCRIPTIONS = {(mode, step.name): step.describe for mode, steps in STEPS.items() for step in steps}


@dataclass(frozen=True)
class MoveStatus:
    """A move that is neither done nor aborted, as its process told last.

    `rows` and `bytes` are copied so far, of about `total_bytes`; `lag` rows were to be carried over in the last round.
    `rate` is in bytes per second, `left` the seconds that copying will go on, or None. `silent` is for how many seconds
    the process was not heard of: every second is normal; after half a minute `recover_moves` takes over. A way
    back has none; it is there `until` (seconds since 1970). `what` tells the move, split or merge in words.
    """

    move: int
    partition: int
    source: str
    target: str
    step: str
    description: str
    rows: int
    bytes: int
    silent: float
    mode: str = "block"
    total_bytes: int = 0
    lag: int = 0
    copying: float = 0.0
    until: float | None = None
    what: str = ""

    @property
    def frozen(self) -> bool:
        return self.until is None and self.silent > FROZEN_AFTER

    @property
    def rate(self) -> float:
        return self.bytes / self.copying if self.copying else 0.0

    @property
    def left(self) -> float | None:
        if not self.rate or self.step != "copy":
            return None
        return max(self.total_bytes - self.bytes, 0) / self.rate


def move_status(router: Router) -> list[MoveStatus]:
    """Return the moves under way, whichever process works on them. Raise `CatalogUnavailable`."""
    journal = Journal(router.catalog)
    return [
        MoveStatus(
            move=record.id,
            partition=record.partition,
            source=record.source,
            target=record.target,
            step=record.step,
            description=_DESCRIPTIONS.get((record.mode, record.step), ""),
            rows=int(record.detail.get("rows", 0)),
            bytes=int(record.detail.get("bytes", 0)),
            silent=journal.seconds_silent(record),
            mode=record.mode,
            total_bytes=int(record.detail.get("total_bytes", 0)),
            lag=int(record.detail.get("lag", 0)),
            until=record.until,
            what=str(record),
            copying=float(record.detail.get("copying", 0.0)),
        )
        for record in journal.running()
    ]
