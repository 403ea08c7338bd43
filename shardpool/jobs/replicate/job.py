"""The job ``replicate``: tables are copied, and every change is told from then on, until it is cancelled."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from shardpool.bulk.chunk import Opened, Rows, Sink
from shardpool.bulk.database_sink import DatabaseSink
from shardpool.bulk.database_source import DATABASE
from shardpool.bulk.file_sink import FileSink
from shardpool.bulk.function_sink import FunctionSink
from shardpool.bulk.journal import JobJournal
from shardpool.bulk.json_lines import json_rows
from shardpool.bulk.keyspace_source import KeyspaceSource
from shardpool.bulk.runner import Beat
from shardpool.catalog import Catalog
from shardpool.config import Config
from shardpool.engines import Engines
from shardpool.errors import JobRefused, UnknownTable
from shardpool.jobs.copy_schema import own_tables
from shardpool.jobs.etl.functions import FunctionAt, find_function
from shardpool.jobs.export import target_config
from shardpool.jobs.following import following_moves
from shardpool.jobs.kind import Prepared, engines_in
from shardpool.jobs.migrate.schema import primary_keys_ddl, tables_ddl
from shardpool.jobs.migrate.survey import Survey, survey
from shardpool.jobs.replicate.capture import check_capture, start_capture, stop_capture
from shardpool.jobs.replicate.follow import Follower
from shardpool.jobs.replicate.receivers import DatabaseReceiver, FileReceiver, FunctionReceiver, Receiver, head
from shardpool.jobs.replicate.references import References
from shardpool.jobs.spec import JobSpec, digest_of
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table


@dataclass(frozen=True)
class ReplicateWork:
    """What another process needs for the copy. Changes are told by the coordinator."""

    token: str
    source: Config
    target: Config | None
    directory: Path
    function: FunctionAt | None
    tables: Mapping[str, Table]

    @contextmanager
    def open(self) -> Iterator[Opened]:
        with ExitStack() as stack:
            router = stack.enter_context(Router(self.source, listen=False))
            yield self.ends(router, engines_in(stack, self.target))

    def ends(self, router: Router, engines: Engines | None) -> Opened:
        source = KeyspaceSource(router, dict.fromkeys(self.tables, 0))
        return Opened(source, self._sink(router.catalog, engines), refresh=router.refresh)

    def receiver(self, catalog: Catalog, engines: Engines | None) -> Receiver:
        if engines is not None and self.target is not None:
            return DatabaseReceiver(engines, self.target.keyspace)
        if self.function is not None:
            return FunctionReceiver(self.function.load(), catalog)
        return FileReceiver(self.directory, catalog)

    def _sink(self, catalog: Catalog, engines: Engines | None) -> Sink:
        if engines is not None and self.target is not None:
            return DatabaseSink(engines, self.target.keyspace)
        if self.function is not None:
            return FunctionSink(self.function.load(), catalog)
        return FileSink(self.directory, catalog, "jsonl", self._encode)

    def _encode(self, rows: Rows) -> bytes:
        columns = [it for it in self.tables[rows.table].columns if not it.generated]
        begin = head(rows.table, "copy")
        return "".join(f"{{{begin}: {row}}}\n" for row in json_rows(columns, rows.records)).encode()


@contextmanager
def prepare(router: Router, spec: JobSpec, dry: bool) -> Iterator[Prepared]:
    """Check a spec and make the job ready."""
    tables = _tables(router, spec)
    sharded = {name: table for name, table in tables.items() if table.sharded}
    references = {name: table for name, table in tables.items() if not table.sharded}
    check_capture(spec.name, tables)
    to, run = spec.document["to"], spec.document.get("run", {})
    target = target_config(router, spec, to) if "url" in to else None
    directory = spec.path(to.get("directory", "."))
    function = find_function(spec.directory, to["python"], "python") if "python" in to else None
    work = ReplicateWork(uuid.uuid4().hex, router.config, target, directory, function, tables)
    with ExitStack() as stack:
        engines = engines_in(stack, target)

        def check_new() -> None:
            if engines is not None:
                _create_tables(engines, router, tables)
            elif function is None and directory.exists() and any(directory.iterdir()):
                raise JobRefused(f"{directory} is not empty: take a new directory")
            start_capture(router, spec.name, sharded)

        def follow(beat: Beat) -> None:
            record = JobJournal(router.catalog).find(spec.name)
            assert record is not None
            receiver, options = work.receiver(router.catalog, engines), spec.options(router)
            receiver.begin(record.id)
            once = not run.get("follow", True)
            follower = Follower(router, spec.name, sharded, receiver, options.workers, options.patience, once)
            if isinstance(receiver, DatabaseReceiver) and references:
                follower.references = References(router, references, receiver, always=once)
            follower.run(beat)

        yield Prepared(
            work=work,
            opened=work.ends(router, engines),
            digest=digest_of(spec, [(name, repr(table)) for name, table in tables.items()], function),
            check_new=check_new,
            follow=follow,
            abandon=lambda: stop_capture(router, spec.name, sharded),
        )


def _tables(router: Router, spec: JobSpec) -> dict[str, Table]:
    """Return the tables that are replicated. Raise `UnknownTable`, or `JobRefused` for a reference table."""
    known, whole = own_tables(router.topology.tables), "url" in spec.document["to"]
    names = spec.document.get("tables", sorted(name for name, table in known.items() if table.sharded or whole))
    for name in names:
        if name not in known:
            raise UnknownTable(name, router.topology.keyspace, list(known))
        if not known[name].sharded and not whole:
            raise JobRefused(
                f"{name} is a reference table, of whose changes no order is known: a database is kept equal to it "
                "(to.url), files and functions are told of sharded tables only"
            )
    return {name: known[name] for name in names}


def surveyed(engines: Engines, topology: Topology) -> tuple[Survey, Survey]:
    """Return what the shared schema has, and what a partition's."""
    placement = topology.shard_map.placements[0]
    with engines.borrow(placement.shard) as connection, connection.cursor() as cursor:
        cursor.execute(topology.search_paths[placement.partition.id])
        shared, own = survey(cursor, topology.keyspace), survey(cursor, placement.partition.schema)
        # One that has moved away looks empty: this is refused then.
        cursor.execute("SELECT %s::regnamespace", (quote(placement.partition.schema),))
        return shared, own


def _create_tables(engines: Engines, router: Router, tables: Mapping[str, Table]) -> None:
    """Create what the database lacks: columns, checks and primary keys. Raise `JobRefused` if tables have rows."""
    shared, own = following_moves(router, lambda topology: surveyed(router.engines, topology))
    found = replace(
        own,
        tables={**shared.tables, **own.tables},
        constraints=[*shared.constraints, *own.constraints],
        defaults={**shared.defaults, **own.defaults},
        types=shared.types,
    )
    with engines.borrow(DATABASE) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT name FROM unnest(%s::text[]) name WHERE to_regclass(quote_ident(name)) IS NOT NULL",
                (list(tables),),
            )
            present = {name for (name,) in cursor.fetchall()}
            missing = [name for name in tables if name not in present]
            if not present:
                cursor.execute(f"{tables_ddl(found, missing)};\n{primary_keys_ddl(found, missing)}")
            elif missing:
                raise JobRefused(f"the database has some of the tables, but lacks {', '.join(sorted(missing))}")
            for name in tables:
                cursor.execute(f"SELECT EXISTS (SELECT FROM {quote(name)})")
                if cursor.fetchone()[0]:
                    raise JobRefused(f"table {name} of the database has rows already: take an empty one")
        connection.commit()
