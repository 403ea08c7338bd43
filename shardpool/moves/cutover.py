"""Trying a cutover again: one that does not get its lock in time, or holds it too long, is undone meanwhile."""

from __future__ import annotations

import logging
import random
import time

from psycopg2 import errors

from shardpool.moves.move import Move
from shardpool.moves.steps import LOCK, names_of, retry_of, steps_to_undo

log = logging.getLogger(__name__)

#: What the servers say when locks or time limits are in the way.
LOCKED = (errors.LockNotAvailable, errors.DeadlockDetected, errors.QueryCanceled)
#: The longest pause between two cutovers, in seconds.
LONGEST_PAUSE = 5.0


class CutoverRetry:
    """Undoes failed cutovers of an online move, as long as there is patience."""

    def __init__(self, move: Move) -> None:
        self._move = move
        self._tries = 0
        self._until: float | None = None

    def step_back(self, step: str, error: Exception) -> bool:
        """Undo the cutover that failed in *step*, and wait a moment. False: it is not to be tried again."""
        move, names = self._move, names_of(self._move.record.mode)
        in_cutover = names.index(LOCK) <= names.index(step) < names.index("flip")
        if not move.record.online or not in_cutover or not self._patient():
            return False
        log.info("%s: the cutover is undone, and tried again later: %s", move.record, error)
        for leg in move.legs:
            leg.servers.source.rollback()
            leg.servers.target.rollback()
        move.pause.began = None
        for undone in steps_to_undo(move.record.mode, step, back_to=LOCK):
            undone.undo(move)
        move.journal.enter(move.record, retry_of(move.record.mode), moving=False)
        self._tries += 1
        time.sleep(random.uniform(0.5, 1.0) * min(0.1 * 2**self._tries, LONGEST_PAUSE))
        return True

    def _patient(self) -> bool:
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._move.router.config.moves.patience
        return now < self._until
