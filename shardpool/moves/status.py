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
    """A move that is neither done nor aborted. `rows` and `bytes` are copied so far. `silent` is for how many seconds
    its process was not heard of: every two seconds is normal; after half a minute `recover_moves` takes over."""

    move: int
    partition: int
    source: str
    target: str
    step: str
    description: str
    rows: int
    bytes: int
    silent: float

    @property
    def frozen(self) -> bool:
        return self.silent > FROZEN_AFTER


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
        )
        for record in journal.running()
    ]
