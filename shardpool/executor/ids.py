"""Giving ids, and finding rows by them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg2
from sqlalchemy import text

from shardpool.catalog import Catalog
from shardpool.engines.translate import translate
from shardpool.errors import MissingPartitionKey, StalePlacement
from shardpool.executor.current import CurrentTopology, check_plan
from shardpool.executor.results import RoutedResult
from shardpool.executor.statements import MAX_RETRIES, Statements
from shardpool.planner.keyed import KeyedStatement, types_of_key
from shardpool.topology.ids import EPOCH, FIRST_TICK, NUMBERS, TICK, make_id, placements_of
from shardpool.topology.key import KeyValue, hash_key
from shardpool.topology.shard_map import Placement, Topology

if TYPE_CHECKING:
    from shardpool.executor.transaction import Transaction

#: A leased tick is used for so long, in seconds, before a newer one is leased.
LEASE = 1.0

# Never a tick that anybody had, whatever the clocks say.
_LEASE = """
INSERT INTO shardpool_catalog.id_clock AS c (keyspace, tick) VALUES (:keyspace, :now)
ON CONFLICT (keyspace) DO UPDATE SET tick = greatest(c.tick + 1, excluded.tick) RETURNING tick
"""


class IdClock:
    """Gives the ids of one router. Thread-safe."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._tick = -1
        self._until = 0.0
        self._process = 0
        self._given: dict[int, int] = {}

    def next_id(self, position: int) -> int:
        """Return a new id for a row whose key's hash is *position*.

        Greater than all that this router gave before for keys of that slice. Raise `CatalogUnavailable` if a new tick
        is needed and cannot be leased.
        """
        with self._lock:
            if time.monotonic() >= self._until or self._process != os.getpid():
                self._lease()
            identity = make_id(self._tick, position, 0)
            number = self._given.get(identity, 0)
            if number == NUMBERS:
                self._lease()
                identity, number = make_id(self._tick, position, 0), 0
            self._given[identity] = number + 1
            return identity | number

    def _lease(self) -> None:
        now = max(int((time.time() - EPOCH) / TICK), FIRST_TICK)
        with self._catalog.begin() as connection:
            leased = connection.execute(text(_LEASE), {"keyspace": self._catalog.keyspace, "now": now})
            self._tick = int(leased.scalar_one())
        self._until = time.monotonic() + LEASE
        self._process = os.getpid()  # a forked child leases its own
        self._given.clear()


#: The execution option in which a connection of SQLAlchemy has what gives ids.
IDS = "shardpool_ids"


@dataclass(frozen=True)
class GivesIds:
    """What `next_id` of a router needs."""

    clock: IdClock
    current: CurrentTopology

    def next_id(self, key: KeyValue, table: str | None) -> int:
        """Return a new id for a row of *table* with this key. Raise `KeyTypeMismatch`, `CatalogUnavailable`."""
        topology = self.current.value
        types = types_of_key(key, topology) if table is None else topology.tables[table].key_types
        return self.clock.next_id(hash_key(key, types))


def next_id(context: Any) -> int:
    """An id as `Router.next_id` gives it, as the default of a SQLAlchemy column: ``default=shardpool.next_id``.

    It carries the partition of the row that is inserted, whose key must be given. *context* is SQLAlchemy's. Raise
    `MissingPartitionKey` without a key, or outside of a router's sessions, connections and constructs.
    """
    ids: GivesIds | None = context.execution_options.get(IDS)
    column = context.current_column
    table = ids.current.value.tables.get(column.table.name) if ids is not None else None
    if ids is None or table is None:
        raise MissingPartitionKey(
            f"shardpool.next_id, the default of {column}, is for sharded tables written through a router"
        )
    given = context.get_current_parameters()
    names = [column.table.c[name].key for name in table.key]
    if column.name in table.key or any(given.get(name) is None for name in names):
        raise MissingPartitionKey(
            f"shardpool.next_id, the default of {column}, carries the partition of {', '.join(table.key)}: give that "
            "(a row whose id is its own key may have router.next_id() of any key: execute(id, ...) finds it)"
        )
    values = tuple(given[name] for name in names)
    return ids.next_id(values[0] if len(values) == 1 else values, table.name)


class ById:
    """Runs statements where the row of an id is."""

    def __init__(self, current: CurrentTopology, statements: Statements, begin: Callable[[], Transaction]) -> None:
        self._current = current
        self._statements = statements
        self._begin = begin

    def execute(
        self, identity: int, compiled: KeyedStatement, parameters: Mapping[str, Any], planned: Topology
    ) -> RoutedResult:
        """Run a statement that was compiled for *planned* on the partition of an id; if that may be one of several, on
        each. Raise `OutdatedPlan`."""
        for _ in range(MAX_RETRIES):
            topology = self._current.value
            check_plan(planned, topology)
            placements = placements_of(identity, topology.shard_map)
            for placement in placements:
                compiled.check_written(placement.partition, parameters, topology)
            try:
                if len(placements) > 1 and compiled.needs_path:
                    return self._together(placements, compiled, parameters, planned)
                return _joined([self._one(it, topology, compiled, parameters) for it in placements])
            except StalePlacement:
                self._current.refresh()
            except psycopg2.Error as error:
                if not self._current.moved(topology, placements):
                    raise translate(error, None, placements[0].shard, "", compiled.writes) from error
        raise StalePlacement(f"the partition of id {identity} moved again and again")

    def _one(
        self, placement: Placement, topology: Topology, compiled: KeyedStatement, parameters: Mapping[str, Any]
    ) -> RoutedResult:
        sql = _text(placement, topology, compiled)
        return self._statements.on_shard(placement.shard, sql, parameters, compiled.writes)

    def _together(
        self,
        placements: tuple[Placement, ...],
        compiled: KeyedStatement,
        parameters: Mapping[str, Any],
        planned: Topology,
    ) -> RoutedResult:
        with self._begin() as transaction:
            check_plan(planned, transaction.topology)
            results = [
                transaction.on_shard(it.shard, _text(it, transaction.topology, compiled), parameters, [it], True)
                for it in placements
            ]
        return _joined(results)


def _text(placement: Placement, topology: Topology, compiled: KeyedStatement) -> str:
    partition = placement.partition.id
    path = topology.search_paths[partition] if compiled.needs_path else ""
    return path + topology.qualifiers[partition].join(compiled.template)


def _joined(results: list[RoutedResult]) -> RoutedResult:
    if len(results) == 1:
        return results[0]
    rows = [row for result in results for row in result.rows]
    return RoutedResult(results[0].description, rows, sum(result.rowcount for result in results))
