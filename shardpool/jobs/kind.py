"""What a kind of job tells the runner: its ends, opened; how to open them elsewhere; and how to check the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from shardpool.bulk.chunk import Opened, Work
from shardpool.bulk.runner import Beat
from shardpool.config import Config
from shardpool.engines import Engines


@dataclass(frozen=True)
class Prepared:
    """A job that can run. *digest* must be the same when it is resumed."""

    work: Work
    opened: Opened
    digest: str
    #: What `--dry-run` shows: facts that a person should see before anything is written.
    plan: Mapping[str, Any] = field(default_factory=dict)
    #: Called before the first chunk of a new job. Raises `JobRefused` if the destination is not as it must be.
    check_new: Callable[[], None] = lambda: None
    #: Called after the last chunk by a job that goes on: until the beat that it is given returns false.
    follow: Callable[[Beat], object] = lambda beat: None
    #: Called after the last chunk; what it returns is told, what it raises fails the job.
    verify: Callable[[], Mapping[str, Any]] = dict
    #: Called when an unfinished job is given up: removes what it has put into its source.
    abandon: Callable[[], None] = lambda: None
    #: The way back after the job is done, if its kind has one; what it returns is told.
    undo: Callable[[], Mapping[str, Any]] | None = None
    #: Gives the way back up, where one is kept: nothing is noted for it any more.
    close: Callable[[], object] | None = None


def engines_in(stack: ExitStack, config: Config | None) -> Engines | None:
    """Open the engines of *config*, if there is one, until *stack* closes."""
    if config is None:
        return None
    engines = Engines(config)
    stack.callback(engines.close)
    return engines
