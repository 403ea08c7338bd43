"""Making a column unique, from the plan to the proof; undoing it; and dropping it again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError

from shardpool import faults
from shardpool.ddl import SchemaManager
from shardpool.errors import (
    CatalogUnavailable,
    DigestMismatch,
    NotUnique,
    PreflightFailed,
    ShardpoolError,
)
from shardpool.moves.locks import keyspace_locked, unique_locked
from shardpool.moves.unique.fill import Filler, partitions_of
from shardpool.moves.unique.plan import SHOWN, UniquePlan, check_unique, plan_unique
from shardpool.moves.unique.prove import digests, same_key_twice
from shardpool.moves.unique.record import Build, Builds, unfinished_build
from shardpool.moves.unique.renumber import renumber, settle_left
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.tables import Sharded, Table

#: How often the rows are gone through. Once is enough, unless somebody changed primary keys beside it.
ROUNDS = 3


@dataclass(frozen=True)
class UniqueProgress:
    """The step ("create", "renumber", "fill", "prove", "done"), how many partitions it has done, and rows reserved."""

    step: str
    done: int
    partitions: int
    rows: int


@dataclass(frozen=True)
class UniqueReport:
    """A column that became unique: its values are reserved in `reservations`, `rows` of them. `pause` is for how many
    seconds the writers of one partition waited at most, `seconds` the whole."""

    table: str
    column: str
    reservations: str
    rows: int
    pause: float
    seconds: float


Callback = Callable[[UniqueProgress], object]


def add_unique(
    router: Router,
    table: str,
    column: str,
    into: str | None = None,
    *,
    plan: UniquePlan | None = None,
    progress: Callback | None = None,
) -> UniqueReport:
    """Make a column of a table with rows unique over all partitions, while everybody goes on; see `plan_unique`, whose
    *plan* of it, if given, is carried out: then its values are not looked through once more before.

    If it fails or is interrupted, it is undone before the error is raised, but for the partitions' new numbers. What a
    process has left that was killed is gone on with.

    Raises:
        NotUnique: several rows have a value; twenty such values at most are told.
        PreflightFailed: it cannot be done; all reasons are named. Nothing was created.
        MoveInProgress: another process makes a column unique, or a partition moves (retryable).
        CutoverTimeout: long transactions use a partition (retryable).
        MoveTakenOver: somebody else goes on with it, or undoes it, meanwhile (retryable).
        SchemaError, SnapshotTimeout, ShardUnavailable, CatalogUnavailable.
    """
    with unique_locked(router):
        settle_left(router)
        router.resolve_transactions()
        build = _left(router, table, column)
        making = _Making(router, table, column, progress)
        try:
            return making.run(build, into, plan)
        except BaseException as error:
            try:
                making.undo()
            except (ShardpoolError, DBAPIError) as second:
                error.add_note(f"whether it is undone is not known: `shardpool doctor` tells. {second}")
            raise
        finally:
            with suppress(CatalogUnavailable):  # then the router will hear of it later
                router.refresh()


def drop_unique(router: Router, table: str, column: str) -> None:
    """Give up that a column is unique, or is being made so: its table of reservations is dropped, whoever writes.

    Raise `PreflightFailed` if it is not, `MoveInProgress` if another process is making it so, and `SchemaError`.
    """
    with unique_locked(router):
        settle_left(router)
        router.resolve_transactions()
        build = _left(router, table, column)
        found = router.topology.tables.get(table)
        if build is None and (found is None or column not in dict(found.unique)):
            raise PreflightFailed([f"{table}.{column} is not unique over all partitions"])
        if build is None:
            SchemaManager(router.catalog, router.engines).drop_reservations(table, column)
        else:
            _undo(router, build)
        router.refresh()


def _left(router: Router, table: str, column: str) -> Build | None:
    """Take over what a process has left of this column. Raise `PreflightFailed` for what was left of another one."""
    build = unfinished_build(router.catalog)
    if build is None:
        return None
    if (build.table, build.column) != (table, column):
        raise PreflightFailed([f"{build} is being made unique: go on with it, or `shardpool unique drop` it"])
    return Builds(router.catalog).take_over(build)


def _undo(router: Router, build: Build) -> None:
    builds = Builds(router.catalog)
    builds.begin_drop(build)
    faults.fault_point("unique:dropping")
    SchemaManager(router.catalog, router.engines).drop_reservations(build.table, build.column)
    faults.fault_point("unique:dropped")
    builds.end_drop(build)


class _Making:
    """One process's work on a column."""

    def __init__(self, router: Router, table: str, column: str, progress: Callback | None) -> None:
        self._router, self._name, self._column = router, table, column
        self._progress = progress
        self._builds = Builds(router.catalog)
        self._build: Build | None = None
        self._created = ""
        self._began = time.monotonic()
        self._rows = 0

    def run(self, left: Build | None, into: str | None, plan: UniquePlan | None) -> UniqueReport:
        build = self._build = self._gone_on_with(left) or self._begin(into, plan)
        pause = self._renumber(build)
        faults.fault_point("unique:fenced")
        rows = self._fill_and_prove(build)
        faults.fault_point("unique:proven")
        self._builds.complete(build)
        self._tell("done", 0)
        reservations = dict(self._table().unique)[self._column]
        return UniqueReport(self._name, self._column, reservations, rows, pause, time.monotonic() - self._began)

    def undo(self) -> None:
        """Leave nothing that was begun, but for the partitions' new numbers. Raise as `drop_unique`."""
        if self._build is not None:
            settle_left(self._router)
            _undo(self._router, self._build)
        elif self._created:
            # It may not have been created, nor be droppable then.
            self._router.refresh()
            if self._created not in self._router.topology.tables:
                return
            self._router.create_schema(f"DROP TABLE {quote(self._created)}")

    def _gone_on_with(self, left: Build | None) -> Build | None:
        """What was left, unless it was to be undone: that is finished."""
        if left is not None and left.dropping:
            _undo(self._router, left)
            return None
        return left

    def _begin(self, into: str | None, plan: UniquePlan | None) -> Build:
        if plan is None:
            plan = plan_unique(self._router, self._name, self._column, into)
        else:
            check_unique(self._router, plan.table, plan.column, plan.reservations)
        if plan.duplicates:
            raise NotUnique(plan.table, plan.column, plan.duplicates)
        self._tell("create", 0)
        self._created = plan.reservations
        self._router.create_schema(plan.ddl, {plan.reservations: Sharded(plan.column)})
        faults.fault_point("unique:created")
        with keyspace_locked(self._router):
            build = self._builds.begin(plan.table, plan.column, plan.reservations)
        faults.fault_point("unique:begun")
        return build

    def _renumber(self, build: Build) -> float:
        """Give all partitions new numbers, and return the longest wait of their writers, in seconds."""
        self._router.refresh()
        first = dict(self._table().building)[build.column]
        older = [it for it in self._router.shard_map.placements if it.partition.id < first]
        pause = 0.0
        for done, placement in enumerate(older):
            self._tell("renumber", done)
            self._builds.check(build)
            pause = max(pause, renumber(self._router, placement))
            faults.fault_point("unique:fenced-one")
        return pause

    def _fill_and_prove(self, build: Build) -> int:
        """Reserve all values; return how many they are. Raise `NotUnique`."""
        self._router.refresh()
        table = self._table()
        for _ in range(ROUNDS):
            self._fill(build, table)
            faults.fault_point("unique:filled")
            self._tell("prove", 0)
            rows, reserved = digests(self._router, table, build.column)
            if rows == reserved:
                return rows[0]
        twice = list(same_key_twice(self._router, table, build.column))
        if twice:
            raise NotUnique(build.table, build.column, twice[:SHOWN])
        raise DigestMismatch(
            f"{rows[0]:,} rows of {table.name} have a value in {build.column}, and {reserved[0]:,} are reserved, or "
            "others: who writes these tables and goes around the router? Nothing is left but new numbers of partitions"
        )

    def _fill(self, build: Build, table: Table) -> None:
        self._rows, done = 0, 0

        def told(rows: int) -> None:
            self._rows += rows
            self._tell("fill", done)

        filler = Filler(self._router, table, build.column, told)
        for done, partition in enumerate(partitions_of(self._router.topology)):  # noqa: B007 (told reads it)
            self._builds.check(build)
            filler.fill(partition)
        if filler.duplicates:
            raise NotUnique(build.table, build.column, filler.duplicates[:SHOWN])

    def _table(self) -> Table:
        return self._router.topology.tables[self._name]

    def _tell(self, step: str, done: int) -> None:
        if self._progress is not None:
            self._progress(UniqueProgress(step, done, len(self._router.shard_map.partitions), self._rows))
