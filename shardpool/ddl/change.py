"""One schema change on all shards: execute everywhere, ask the servers, commit everywhere, make it known."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING

import psycopg2
from sqlalchemy.exc import DBAPIError

from shardpool.catalog import Catalog
from shardpool.ddl.features import read_features
from shardpool.ddl.history import History
from shardpool.ddl.introspect import read_tables
from shardpool.ddl.key_triggers import check_keys_kept
from shardpool.ddl.locks import PATIENCE
from shardpool.ddl.log import Recorded, add_effects, bring_forward, count_running, forget, mark_done
from shardpool.ddl.parallel import on_all
from shardpool.ddl.refusals import refuse
from shardpool.ddl.replay import prove_replay
from shardpool.ddl.session import ShardSession, first_line, lost
from shardpool.ddl.statement import Effect
from shardpool.ddl.views import known_views
from shardpool.errors import CatalogUnavailable
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Sharded, Table, TableKind, View

if TYPE_CHECKING:
    from shardpool.engines import Engines


@dataclass(frozen=True)
class _Findings:
    """What the servers said after all statements had run, before anything was committed."""

    tables: Mapping[str, Table | None]
    views: Sequence[View]
    functions: frozenset[str]
    forward: frozenset[int]
    lost: Sequence[Effect]


class Change:
    """A batch of recorded statements, all 'running', after the statements *done*. May be run again after a failure.

    `begun` says whether a commit was sent to any shard: until then nothing has happened.
    """

    def __init__(
        self,
        catalog: Catalog,
        engines: Engines,
        topology: Topology,
        done: Sequence[Recorded],
        batch: Sequence[Recorded],
        lock_timeout: float,
    ) -> None:
        self.catalog, self.engines, self.topology = catalog, engines, topology
        self.done, self.batch, self.lock_timeout = done, batch, lock_timeout
        self.begun = False
        self._patience = cycle(PATIENCE)

    def run(self) -> None:
        """Execute the batch on every shard. Raise `SchemaError`: then nothing is changed, unless `begun`."""
        self._run(resuming=False)

    def resume(self) -> bool:
        """Finish the batch where it is missing, or forget it if it is nowhere; return whether it was finished."""
        return self._run(resuming=True)

    def _run(self, resuming: bool) -> bool:
        with ExitStack() as stack:
            sessions = [
                ShardSession(self.catalog.keyspace, shard, schemas, stack.enter_context(self.engines.borrow(shard)))
                for shard, schemas in self._schemas().items()
            ]
            # Entered last: its threads end before the connections are given back.
            executor = stack.enter_context(ThreadPoolExecutor(len(sessions), "shardpool-ddl"))
            applied = on_all(executor, sessions, self._open)
            if resuming and not any(applied.values()):
                forget(self.catalog, self.batch)
                return False
            behind = [it for it in sessions if not applied[it.shard]]
            patience = next(self._patience)
            on_all(executor, behind, lambda it: it.lock(self.batch, patience))
            on_all(executor, behind, self._execute)
            findings = self._inspect(sessions, on_all(executor, sessions, self._check))
            self._check_undisturbed()
            self._commit(sessions, behind)
        self._register(findings)
        return True

    def _schemas(self) -> dict[str, list[str]]:
        shard_map = self.topology.shard_map
        placed = shard_map.by_shard()
        return {name: [it.schema for it in placed.get(name, ())] for name in sorted(shard_map.shards)}

    # -- on each shard ----------------------------------------------------------------------------------------------

    def _open(self, session: ShardSession) -> frozenset[int]:
        session.begin(self.lock_timeout)
        session.create_schemas(fresh=not any(it.statement.scope == "partition" for it in self.done))
        session.check_nothing_behind(self._names())
        return session.applied([it.id for it in self.batch])

    def _execute(self, session: ShardSession) -> None:
        for recorded in self.batch:
            session.execute(recorded)

    def _check(self, session: ShardSession) -> frozenset[str]:
        session.check_nothing_behind(self._names())
        session.finish()
        return session.functions()

    def _names(self) -> set[str]:
        """Names that must be found in partitions only: sharded tables and views, and indexes that are changed."""
        names = set(self.topology.sharded_names)
        for it in (it.statement for it in self.batch if it.statement.scope == "partition"):
            names.update(it.tables)
            names.update(it.existing_indexes)
            names.update(effect.name for effect in it.effects if effect.what == "view")
        return names

    # -- together ---------------------------------------------------------------------------------------------------

    def _inspect(self, sessions: Sequence[ShardSession], functions: Mapping[str, frozenset[str]]) -> _Findings:
        """Ask one shard that has partitions what the statements have made of the tables."""
        session = next(it for it in sessions if it.schemas)
        kinds: dict[str, TableKind | None] = {}
        for it in self.batch:
            kinds.update(it.statement.tables)
        kinds.update(_not_unique_any_more(self.topology, {name for name, kind in kinds.items() if kind is None}))
        partitioned = {name: kind for name, kind in kinds.items() if isinstance(kind, Sharded)}
        shared = {name: kind for name, kind in kinds.items() if kind is not None and name not in partitioned}
        tables: dict[str, Table | None] = {name: None for name, kind in kinds.items() if kind is None}
        present = set()
        for schema, wanted in ((self.catalog.keyspace, shared), (session.schemas[0], partitioned)):
            with session.reading(schema) as cursor:
                tables.update(read_tables(cursor, schema, wanted))
                present |= {(it.kind, it.table, it.name) for it in read_features(cursor, schema)}
        if any(effect.what in ("trigger", "function") for it in self.batch for effect in it.statement.effects):
            kept = {**self.topology.tables, **{name: table for name, table in tables.items() if table is not None}}
            with session.reading(session.schemas[0]) as cursor:
                check_keys_kept(cursor, session.schemas[0], kept)
        history = History.of(
            [it.statement for it in (*self.done, *self.batch)], self.topology.tables, self.catalog.keyspace
        )
        all_functions = frozenset[str]().union(*functions.values())
        views = self._views(session, history, tables, all_functions)
        lost = self._lost(history, present)
        *others, last = self.batch
        last = replace(last, statement=replace(last.statement, effects=(*last.statement.effects, *lost)))
        forward = prove_replay(session, self.done, [*others, last])
        return _Findings(tables, views, all_functions, forward, lost)

    def _views(
        self, session: ShardSession, history: History, tables: Mapping[str, Table | None], functions: frozenset[str]
    ) -> Sequence[View]:
        """What the views have become, checked: the tables that they read may have changed."""
        merged = {**self.topology.tables, **tables}
        kept = {name: table for name, table in merged.items() if table is not None}
        future = replace(self.topology, tables=kept, user_functions=functions)
        return known_views(history, session.views(history.views), future)

    def _lost(self, history: History, present: set[tuple[str, str, str]]) -> list[Effect]:
        """What the batch dropped without saying so: indexes, foreign keys and triggers go with a column."""
        concerned = frozenset[str]().union(*(it.statement.owners for it in self.batch))
        return [
            Effect("lose", it.what, it.name, it.table)
            for it in history.objects
            if it.table in concerned and (it.what, it.table, it.name) not in present
        ]

    def _check_undisturbed(self) -> None:
        """Raise `SchemaError` if somebody else has taken over: the lock goes with the catalog's connection."""
        with self.catalog.begin() as connection:
            running = count_running(connection, self.batch)
        if running != len(self.batch) or self.catalog.epoch() != self.topology.shard_map.epoch:
            raise refuse("SP269")

    def _commit(self, sessions: Sequence[ShardSession], behind: Sequence[ShardSession]) -> None:
        committed = [it.shard for it in sessions if it not in behind]
        for session in behind:
            self.begun = True
            try:
                session.commit()
            except psycopg2.Error as error:
                if not committed and not lost(error):
                    self.begun = False
                    raise session.failure(error, "COMMIT", "at the end") from error
                raise self._interrupted(committed, error) from error
            committed.append(session.shard)

    def _register(self, findings: _Findings) -> None:
        """Make the change known, unless another process has finished it meanwhile."""
        try:
            with self.catalog.begin() as connection:
                if count_running(connection, self.batch) != len(self.batch):
                    return
                mark_done(connection, self.batch)
                bring_forward(connection, findings.forward)
                add_effects(connection, self.batch[-1], findings.lost)
                self.catalog.save_tables(connection, findings.tables, sorted(findings.functions))
                self.catalog.save_views(connection, findings.views)
                self.catalog.bump(connection)
        except (CatalogUnavailable, DBAPIError) as error:
            raise self._interrupted(list(self.topology.shard_map.shards), error) from error

    def _interrupted(self, committed: Sequence[str], error: BaseException) -> Exception:
        missing = [it for it in sorted(self.topology.shard_map.shards) if it not in committed] or ["the catalog"]
        names = ", ".join(committed) or "no shard"
        return refuse("SP265", committed=names, missing=", ".join(missing), reason=first_line(error))


def _not_unique_any_more(topology: Topology, dropped: Collection[str]) -> dict[str, TableKind]:
    """The tables that lose unique columns with the tables of their reservations."""
    found: dict[str, TableKind] = {}
    for table in topology.tables.values():
        kept = {column: name for column, name in table.unique if name not in dropped}
        if len(kept) < len(table.unique) and table.name not in dropped:
            found[table.name] = Sharded(table.key[0] if len(table.key) == 1 else table.key, kept)
    return found
