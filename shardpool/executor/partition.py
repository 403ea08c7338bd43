"""Connections on one partition: SQLAlchemy's own, with every statement pointed at the partition's schema.

The search path is set by ``SET LOCAL`` in the same message as each statement, so that it costs no round trip, holds in
autocommit mode, after savepoints and behind a transaction pooler, and never outlives its transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, event

from shardpool.engines.translate import is_stale
from shardpool.errors import StalePlacement
from shardpool.planner.keyed import compile_on_connection
from shardpool.planner.statement import from_pyformat
from shardpool.topology.shard_map import Placement, Topology

#: The execution option that marks a connection as one on a partition.
OPTION = "shardpool_partition"


class PartitionContext:
    """What a connection on a partition knows: its topology is pinned, and never follows a newer one."""

    def __init__(
        self, topology: Topology, placement: Placement, moved: Callable[[Topology, list[Placement]], bool]
    ) -> None:
        self.topology = topology
        self.placement = placement
        self.moved = moved

    def prepare(self, cursor: Any, sql: str, parameters: Any) -> str:
        """Check a statement and return it with its search path. Raise as `compile_on_connection` does."""
        compiled = compile_on_connection(from_pyformat(sql), self.topology)
        if compiled is not None:
            rows: Sequence[Mapping[str, Any]] = parameters if isinstance(parameters, list) else [parameters]
            for row in rows:
                compiled.check_written(self.placement.partition, row if isinstance(row, Mapping) else {}, self.topology)
            sql = self.topology.qualifiers[self.placement.partition.id].join(compiled.template)
        path = self.topology.search_paths[self.placement.partition.id]
        if cursor.name:
            # A server-side cursor declares itself around the text: the path goes ahead of it.
            with cursor.connection.cursor() as other:
                other.execute(path)
            return sql
        return path + sql


def watch(engine: Engine) -> None:
    """Make an engine's connections heed `OPTION`."""

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def _prepare(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> tuple[str, Any]:
        partition: PartitionContext | None = connection.get_execution_options().get(OPTION)
        if partition is None:
            return statement, parameters
        # Without parameters the driver would leave doubled percent signs as they are.
        return partition.prepare(cursor, statement, parameters), parameters or {}

    @event.listens_for(engine, "handle_error")
    def _explain(context: Any) -> None:
        options = context.connection.get_execution_options() if context.connection is not None else {}
        partition: PartitionContext | None = options.get(OPTION)
        if partition is not None and is_stale(context.original_exception):
            placement = partition.placement
            if partition.moved(partition.topology, [placement]):
                raise StalePlacement(
                    f"partition {placement.partition.id} left shard {placement.shard!r}: run the transaction again"
                ) from context.original_exception
