"""The current topology: one immutable value, replaced as a whole when the catalog's epoch rises.

Every call takes it once and works with that. When a shard says that a partition is not there, `moved` finds out whether
it moved, waits for the end of a cutover, and otherwise leaves the error to the user.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from shardpool.catalog import Catalog
from shardpool.engines import Engines
from shardpool.errors import CatalogUnavailable, InvalidShardMap
from shardpool.topology.shard_map import Placement, Topology

log = logging.getLogger(__name__)

#: How long a statement waits for a partition that is between two shards, in seconds.
CUTOVER_WAIT = 10.0
CUTOVER_POLL = 0.02


class OutdatedPlan(Exception):
    """A plan was made for other unique columns than the topology has with which it is to be carried out."""


def check_plan(planned: Topology, topology: Topology) -> None:
    """Raise `OutdatedPlan` unless a plan for *planned* may be carried out with *topology*."""
    if topology is not planned and topology.reserving != planned.reserving:
        raise OutdatedPlan


class CurrentTopology:
    """Holds the topology of a router. *on_new_tables* is called after a change of the tables or views. Thread-safe."""

    def __init__(self, catalog: Catalog, engines: Engines, on_new_tables: Callable[[], None]) -> None:
        self._catalog = catalog
        self._engines = engines
        self._on_new_tables = on_new_tables
        self._refreshing = threading.Lock()
        self._changed = threading.Condition()
        self.value = catalog.load()
        engines.set_shards(self.value.shard_map.shards)

    def refresh(self) -> None:
        """Read the catalog now. Raise `CatalogUnavailable`, or `InvalidShardMap` and keep the last good map."""
        with self._refreshing:
            found = self._catalog.load()
            known = self.value
            if found.shard_map.epoch < known.shard_map.epoch:
                raise InvalidShardMap(
                    f"the catalog's epoch went back from {known.shard_map.epoch} to {found.shard_map.epoch}"
                )
            self._engines.set_shards(found.shard_map.shards)
            self.value = found
            with self._changed:
                self._changed.notify_all()
            if _schema(found) != _schema(known):
                self._on_new_tables()

    def refresh_quietly(self) -> None:
        """On a notice: routing goes on with the last good map if the catalog cannot be read."""
        try:
            self.refresh()
        except (CatalogUnavailable, InvalidShardMap) as error:
            log.warning("the shard map was not refreshed: %s", error)

    def has_all_shards(self, seen: Topology) -> bool:
        """Whether the keyspace has the shards of *seen*, and no others, at this moment. Raise `CatalogUnavailable`."""
        same = set(self._catalog.identities()) == set(seen.shard_map.shards)
        if not same:
            self.refresh()
        return same

    def moved(self, seen: Topology, placements: Iterable[Placement]) -> bool:
        """Whether one of *placements*, as of *seen*, is no longer true; if one is moving, wait for its new place.

        False: nothing moved, and the error that led here stands.
        """
        try:
            if self.value is seen:
                self.refresh()
            return any(self._settled(seen, placement) for placement in placements)
        except CatalogUnavailable:
            return False

    def outdated(self, seen: Topology) -> bool:
        """Whether there is a newer topology than *seen*, or will be in a moment."""
        deadline = time.monotonic() + CUTOVER_WAIT
        try:
            while self.value.shard_map.epoch == seen.shard_map.epoch and time.monotonic() < deadline:
                with self._changed:
                    self._changed.wait(CUTOVER_POLL)
                self.refresh()
        except CatalogUnavailable:
            return False
        return self.value.shard_map.epoch != seen.shard_map.epoch

    def _settled(self, seen: Topology, placement: Placement) -> bool:
        deadline = time.monotonic() + CUTOVER_WAIT
        while True:
            current = self.value.shard_map.at(placement.partition.low)
            if (current.partition, current.shard) != (placement.partition, placement.shard):
                return True
            if not current.moving:
                # The map tells nothing new of this partition's place. But it may have moved away and back, or been
                # switched on just now: after any change it is worth another try, and without one it is not.
                return self.value.shard_map.epoch != seen.shard_map.epoch
            if time.monotonic() > deadline:
                return False
            if not self._heard_of_change(current):
                self.refresh()

    def _heard_of_change(self, placement: Placement) -> bool:
        """Wait a moment; whether a notice has brought another map meanwhile."""
        with self._changed:
            return self.value.shard_map.at(placement.partition.low) is not placement or self._changed.wait(CUTOVER_POLL)


def _schema(topology: Topology) -> tuple[object, ...]:
    """What plans are made from."""
    return topology.tables, topology.views, topology.user_functions
