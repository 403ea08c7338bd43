"""Applying schema changes: every statement on every shard, or on none.

The log of statements in the catalog is written ahead ('running'); then each shard executes the whole script in one
transaction; when all have succeeded, all commit; then the log says 'done' and the tables are made known. A process that
dies before the first commit has changed nothing. One that dies between the commits leaves a mark on the shards that
have committed, ``<keyspace>.shardpool_ddl``, by which the next change, or `SchemaManager.resume`, finishes the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sqlalchemy.exc import DBAPIError
from tenacity import (
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random,
    wait_random_exponential,
)

from shardpool.catalog import Catalog
from shardpool.ddl.change import Change
from shardpool.ddl.log import Recorded, forget, read_log, record, running_move, unique_build
from shardpool.ddl.refusals import refuse
from shardpool.ddl.replay import phase
from shardpool.ddl.rules import plan_statements
from shardpool.ddl.script import parse_script
from shardpool.ddl.session import ShardSession
from shardpool.ddl.statement import DdlStatement, Effect, Scope
from shardpool.errors import CatalogUnavailable, SchemaBusy, SchemaError
from shardpool.planner.depth import deep_trees
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Partition
from shardpool.topology.tables import TableKind

if TYPE_CHECKING:
    from shardpool.engines import Engines

_T = TypeVar("_T")

#: How long, in seconds, the drop of tables that every writer takes waits for one of them: all its waits together are to
#: be shorter than a writer waits before its server looks for a deadlock.
BRIEFLY = 0.1


@dataclass(frozen=True)
class StatementReport:
    """What became of one statement. 'unchanged': it was applied before."""

    statement: str
    scope: Scope
    state: Literal["applied", "unchanged"]


class SchemaManager:
    """Changes the schema of a keyspace. `lock_timeout` (seconds) bounds how long a statement waits for a table's lock
    while others queue behind it; after that everything is rolled back and tried again, up to `attempts` times."""

    def __init__(self, catalog: Catalog, engines: Engines, *, lock_timeout: float = 2.0, attempts: int = 20) -> None:
        self.catalog, self.engines = catalog, engines
        self.lock_timeout, self.attempts = lock_timeout, attempts

    def create_schema(self, ddl: str, tables: Mapping[str, TableKind]) -> list[StatementReport]:
        """Apply a script; *tables* declares the tables that it creates. Statements applied before are left alone.

        Raise `SchemaError` for what sharding cannot keep, or what a shard refuses: then nothing is changed anywhere
        (unless its code is SP265: see there).
        """
        with self._locked():
            self._finish_unfinished()
            topology = self.catalog.load()
            done = read_log(self.catalog, "done")
            script = parse_script(ddl, self.catalog.keyspace)
            recorded = [it.statement for it in done]
            planned = plan_statements(script, tables, topology.tables, self.catalog.keyspace, recorded)
            new = [it for it in planned if not it.unchanged]
            if new:
                batch = record(self.catalog, new)
                self._apply(Change(self.catalog, self.engines, topology, done, batch, self.lock_timeout))
        return [_report(it) for it in planned]

    def resume(self) -> list[StatementReport]:
        """Finish a schema change that was interrupted, and return its statements; none if it was undone instead."""
        with self._locked(building=True):
            return [_report(it.statement) for it in self._finish_unfinished()]

    def drop_reservations(self, table: str, column: str) -> None:
        """Drop the table of reservations of a column, which ceases to be unique: both at once for who writes.

        Raise as `create_schema` does.
        """
        with self._locked(building=True):
            self._finish_unfinished()
            topology = self.catalog.load()
            name = dict(topology.tables[table].unique).get(column)
            if name is None:
                return
            words = f"DROP TABLE {quote(name)}"
            effects = (Effect("drop", "table", name),)
            statement = DdlStatement(words, "partition", False, words, 0, {name: None}, effects)
            done, batch = read_log(self.catalog, "done"), record(self.catalog, [statement])
            self._apply(Change(self.catalog, self.engines, topology, done, batch, BRIEFLY))

    def prepare_shard(self, shard: str, partitions: Sequence[Partition] = ()) -> None:
        """Give a new, empty shard the shared objects, and empty schemas for *partitions* if it lacks them.

        The caller holds the catalog's lock "topology" until the shard is registered: a schema change in between would
        miss it. May be run again. Reference tables are empty afterwards: their rows are the caller's to copy.
        """
        done = self._finished_log()
        sharded = self.catalog.load().sharded_names
        with self.engines.borrow(shard) as connection:
            session = ShardSession(self.catalog.keyspace, shard, [], connection)
            with self._transaction(session):
                session.check_nothing_behind(sharded)
                session.create_schemas(fresh=True)
            # One by one: a value that was added to an enum can be used only after a commit.
            for recorded in done:
                with self._transaction(session):
                    if not session.applied([recorded.id]):
                        session.execute(recorded)
            for partition in partitions:
                with self._transaction(session):
                    if session.create_schema(partition.schema):
                        for text in phase(done, False) + phase(done, True):
                            session.run_in(partition.schema, text)

    def replay_partition(self, connection: Any, schema_name: str, after_copy: bool) -> None:
        """Run the recorded statements of a partition in the existing schema *schema_name*, without a commit.

        Once with `after_copy` False before rows are copied into it, once with True after: the latter creates foreign
        keys, triggers and indexes (but for indexes on which statements of the first phase depend). Afterwards, and
        until the transaction ends, the search path is the partition's.
        """
        done = self._finished_log()
        place = f"{connection.info.host}:{connection.info.port}/{connection.info.dbname}"
        session = ShardSession(self.catalog.keyspace, place, [schema_name], connection)
        for text in phase(done, after_copy):
            session.run_in(schema_name, text)

    # -- the steps --------------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self, building: bool = False) -> Iterator[None]:
        """Hold the lock under which moves begin and cut over; while one is under way, tables stay as they are, and
        unless *building* while a column becomes unique."""
        with ExitStack() as stack:
            stack.enter_context(deep_trees())
            # A lock whose holder has just ended is free a moment later, when its server has noticed.
            waiting = Retrying(
                retry=retry_if_exception_type(SchemaBusy),
                stop=stop_after_delay(self.lock_timeout),
                wait=wait_random(0, self.lock_timeout / 10),
                reraise=True,
            )
            waiting(lambda: stack.enter_context(self.catalog.lock("topology", self._busy)))
            move = running_move(self.catalog)
            if move is not None:
                partition, source, target = move
                raise refuse("SP261", partition=partition, source=source, target=target)
            found = unique_build(self.catalog)
            if found is not None and not building:
                raise refuse("SP272", table=found[0], column=found[1])
            yield

    def _busy(self) -> Exception:
        return refuse("SP260", keyspace=self.catalog.keyspace)

    def _finished_log(self) -> list[Recorded]:
        if read_log(self.catalog, "running"):
            raise refuse("SP268", keyspace=self.catalog.keyspace)
        return read_log(self.catalog, "done")

    def _finish_unfinished(self) -> Sequence[Recorded]:
        batch = read_log(self.catalog, "running")
        if not batch:
            return ()
        done = read_log(self.catalog, "done")
        change = Change(self.catalog, self.engines, self.catalog.load(), done, batch, self.lock_timeout)
        return batch if self._retrying(change.resume) else ()

    def _apply(self, change: Change) -> None:
        try:
            self._retrying(change.run)
        except BaseException:
            if not change.begun:
                # If the catalog is gone too, the next change finds these statements on no shard, and forgets them.
                with suppress(CatalogUnavailable, DBAPIError):
                    forget(self.catalog, change.batch)
            raise

    def _retrying(self, step: Callable[[], _T]) -> _T:
        """Run *step* again while other sessions hold locks: all shards are rolled back before each pause."""
        retrying = Retrying(
            retry=retry_if_exception(_blocked),
            stop=stop_after_attempt(self.attempts),
            wait=wait_random_exponential(multiplier=0.1, max=self.lock_timeout * 5),
            reraise=True,
        )
        return retrying(step)

    @contextmanager
    def _transaction(self, session: ShardSession) -> Iterator[None]:
        session.begin(self.lock_timeout)
        yield
        session.commit()


def _blocked(error: BaseException) -> bool:
    return isinstance(error, SchemaError) and error.code == "SP264"


def _report(statement: DdlStatement) -> StatementReport:
    return StatementReport(statement.text, statement.scope, "unchanged" if statement.unchanged else "applied")
