"""Changing a keyspace's schema for a job, which may have run for hours: moves that are under way are waited for."""

from __future__ import annotations

from collections.abc import Mapping

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from shardpool.errors import SchemaBusy
from shardpool.router import Router
from shardpool.topology.tables import TableKind

#: Seconds that are waited, and between two attempts at most.
PATIENCE, INTERVAL = 300.0, 1.0


def change_schema(router: Router, ddl: str, tables: Mapping[str, TableKind]) -> None:
    """Do what `Router.create_schema` does. Raise as it does; `SchemaBusy` when moves go on for minutes."""
    attempts = Retrying(
        retry=retry_if_exception_type(SchemaBusy),
        stop=stop_after_delay(PATIENCE),
        wait=wait_random_exponential(multiplier=0.05, max=INTERVAL),
        before_sleep=lambda _: router.refresh(),
        reraise=True,
    )
    attempts(router.create_schema, ddl, tables)
