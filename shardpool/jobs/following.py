"""Work of jobs, which may run for hours, beside moves: over all partitions where they are, and changes of the schema,
which moves hold up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from psycopg2 import errors
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from shardpool.errors import SchemaBusy, StalePlacement
from shardpool.router import Router
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import TableKind

#: Seconds that are spent on moves that go on and on, and those that a change of the schema waits for them.
PATIENCE, SCHEMA_PATIENCE = 60.0, 300.0
#: What a schema that was renamed by a move answers with.
_GONE = (StalePlacement, errors.UndefinedTable, errors.InvalidSchemaName)

Result = TypeVar("Result")


def following_moves(router: Router, work: Callable[[Topology], Result]) -> Result:
    """Return what *work*, which may be done again, makes of the topology. Raise what it raises in the end."""
    return _again(router, _GONE, PATIENCE)(lambda: work(router.topology))


def change_schema(router: Router, ddl: str, tables: Mapping[str, TableKind]) -> None:
    """Do what `Router.create_schema` does. Raise as it does; `SchemaBusy` when moves go on for minutes."""
    _again(router, (SchemaBusy,), SCHEMA_PATIENCE)(router.create_schema, ddl, tables)


def _again(router: Router, on: tuple[type[Exception], ...], patience: float) -> Retrying:
    """Each attempt with a map of then."""
    return Retrying(
        retry=retry_if_exception_type(on),
        stop=stop_after_delay(patience),
        wait=wait_random_exponential(multiplier=0.02, max=1.0),
        before_sleep=lambda _: router.refresh(),
        reraise=True,
    )
