"""Whether others work on servers: bulk work makes way for them by itself, and has idle servers for itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg2

from shardpool.bulk.watcher import Watcher, looking
from shardpool.errors import ShardpoolError

if TYPE_CHECKING:
    from shardpool.engines import Engines

log = logging.getLogger(__name__)

#: The part of the time that is worked beside others.
BESIDE_OTHERS = 0.06
#: Seconds between two looks.
INTERVAL = 0.1

# Sessions of moves, and what they say to the catalog, are no others. What another role does is seen by pg_monitor only.
_OTHERS = f"""
SELECT EXISTS (SELECT FROM pg_stat_activity
WHERE backend_type = 'client backend' AND application_name !~ '^shardpool (move|catalog|watch)'
AND (state = 'active' OR state_change > clock_timestamp() - interval '{INTERVAL} s'))
"""


class Foreground:
    """What was seen of the others on some servers. One look at somebody proves little; two in a row are work."""

    def __init__(self) -> None:
        self._looks = 0

    def saw(self, others: bool) -> None:
        self._looks = self._looks + 1 if others else 0

    @property
    def share(self) -> float:
        """The part of the time that may be worked."""
        return BESIDE_OTHERS if self._looks > 1 else 1.0


@contextmanager
def foreground(engines: Engines, shards: Sequence[str], work: str) -> Iterator[Foreground]:
    """Look at the servers of *shards* while the block does *work* on them, over connections beyond the pools' limits.

    A server that cannot be looked at is taken for one that others use.
    """
    seen = Foreground()
    watchers = [Watcher(engines, shard) for shard in dict.fromkeys(shards)]

    def look() -> None:
        try:
            seen.saw(any(others_work(watcher) for watcher in watchers))
        except (ShardpoolError, psycopg2.Error) as error:
            log.debug("%s: the servers cannot be looked at: %s", work, error)
            seen.saw(True)

    with looking(watchers, look, INTERVAL, "shardpool-foreground"):
        yield seen


def others_work(watcher: Watcher) -> bool:
    """Whether others work on a server. Raise `ShardUnavailable` or the driver's errors."""
    return bool(watcher.ask(_OTHERS)[0])
