"""Work over all partitions where they are: again with a newer map, when one has moved meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from psycopg2 import errors
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from shardpool.errors import StalePlacement
from shardpool.router import Router
from shardpool.topology.shard_map import Topology

#: Seconds that are spent on moves that go on and on.
PATIENCE = 60.0
#: What a schema that was renamed by a move answers with.
_GONE = (StalePlacement, errors.UndefinedTable, errors.InvalidSchemaName)

Result = TypeVar("Result")


def following_moves(router: Router, work: Callable[[Topology], Result]) -> Result:
    """Return what *work*, which may be done again, makes of the topology. Raise what it raises in the end."""
    attempts = Retrying(
        retry=retry_if_exception_type(_GONE),
        stop=stop_after_delay(PATIENCE),
        wait=wait_random_exponential(multiplier=0.02, max=1.0),
        before_sleep=lambda _: router.refresh(),
        reraise=True,
    )
    return attempts(lambda: work(router.topology))
