"""The job ``export``: a keyspace out of shardpool, to files of CSV or Parquet, or into one PostgreSQL database."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy.engine import make_url

from shardpool.bulk.arrow import parquet_sink
from shardpool.bulk.chunk import Opened, Sink
from shardpool.bulk.database_sink import DatabaseSink
from shardpool.bulk.database_source import DATABASE, database_config
from shardpool.bulk.digest import digest_in
from shardpool.bulk.file_sink import FileSink, csv_sink
from shardpool.bulk.keyspace_source import KeyspaceSource, Raw
from shardpool.bulk.translate import refused
from shardpool.config import Config, parse_endpoint
from shardpool.engines import Engines
from shardpool.errors import ConfigError, JobRefused, UnknownTable
from shardpool.jobs.constraints import Constraints, read_constraints, self_referring, stages
from shardpool.jobs.copy_schema import own_log, own_tables
from shardpool.jobs.destination import build_rest, create_tables
from shardpool.jobs.digest import compare, digests_of, whole
from shardpool.jobs.kind import Prepared, engines_in
from shardpool.jobs.spec import JobSpec, digest_of
from shardpool.router import Router
from shardpool.topology.names import quote


@dataclass(frozen=True)
class ExportWork:
    """What another process needs."""

    token: str
    source: Config
    target: Config | None
    directory: Path
    format: str
    stages: Mapping[str, int]
    uncut: frozenset[str]

    @contextmanager
    def open(self) -> Iterator[Opened]:
        with ExitStack() as stack:
            router = stack.enter_context(Router(self.source, listen=False))
            yield self.ends(router, engines_in(stack, self.target))

    def ends(self, router: Router, engines: Engines | None) -> Opened:
        raw: Raw
        sink: Sink
        if engines is not None and self.target is not None:
            raw, sink = "binary", DatabaseSink(engines, self.target.keyspace)
        elif self.format == "parquet":
            raw, sink = "csv", parquet_sink(self.directory, router.catalog, router.topology.tables)
        else:
            raw, sink = "csv", csv_sink(self.directory, router.catalog)
        return Opened(KeyspaceSource(router, self.stages, self.uncut, raw), sink, refresh=router.refresh)


@contextmanager
def prepare(router: Router, spec: JobSpec, dry: bool) -> Iterator[Prepared]:
    """Check a spec and make the job ready."""
    to = spec.document["to"]
    tables = own_tables(router.topology.tables)
    names = spec.document.get("tables", sorted(tables))
    for name in names:
        if name not in tables:
            raise UnknownTable(name, router.topology.keyspace, list(tables))
    constraints = read_constraints(router)
    target = target_config(router, spec, to) if "url" in to else None
    directory = spec.path(to.get("directory", "."))
    work = ExportWork(
        uuid.uuid4().hex,
        router.config,
        target,
        directory,
        to.get("format", "csv"),
        stages(names, constraints.foreign_keys),
        self_referring(constraints.foreign_keys),
    )
    with ExitStack() as stack:
        engines = engines_in(stack, target)
        opened = work.ends(router, engines)

        def check_new() -> None:
            if engines is not None and target is not None:
                _check_tables(engines, router, target.keyspace, names, constraints)
            elif directory.exists() and any(directory.iterdir()):
                raise JobRefused(f"{directory} is not empty: take a new directory")

        def verify() -> Mapping[str, Any]:
            if engines is None or target is None:
                if isinstance(opened.sink, FileSink):
                    opened.sink.write_empty(tables[name] for name in names)
                return {}
            with ThreadPoolExecutor(1, thread_name_prefix="shardpool-digest") as thread:
                keyspace = thread.submit(digests_of, router, {name: tables[name] for name in names})
                build_rest(engines, target.keyspace)
                with engines.borrow(DATABASE) as connection, connection.cursor() as cursor:
                    places = {name: f"{quote(target.keyspace)}.{quote(name)}" for name in names}
                    found = {name: [digest_in(cursor, places[name], tables[name].columns)] for name in names}
            digests = keyspace.result()
            compare({name: whole(name, digests[name]) for name in names}, found)
            return {"verified_rows": {name: rows for name, [(rows, _)] in found.items()}}

        yield Prepared(
            work=work,
            opened=opened,
            digest=digest_of(spec, [(name, repr(tables[name])) for name in names]),
            check_new=check_new,
            verify=verify,
        )


def target_config(router: Router, spec: JobSpec, to: Mapping[str, Any]) -> Config:
    """Return the configuration of the database that *to* names. Raise `ConfigError`."""
    if make_url(to["url"]).password is not None:
        # The catalog keeps the spec.
        raise ConfigError(spec.source, "to.url", "a password", "a URL without one, and password_env or ~/.pgpass")
    endpoint = parse_endpoint(to["url"], spec.source, "to", to.get("password_env"))
    workers = spec.options(router).workers
    return database_config(endpoint, to.get("schema", "public"), router.config.timezone, workers + 2)


def _check_tables(
    engines: Engines, router: Router, schema: str, names: Sequence[str], constraints: Constraints
) -> None:
    """Create the keyspace's tables in the database, if it lacks them. Raise `JobRefused` if they have rows."""
    places = {name: f"{quote(schema)}.{quote(name)}" for name in names}
    with engines.borrow(DATABASE) as connection:
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT count(*) FROM unnest(%s::text[]) name WHERE to_regclass(name) IS NOT NULL",
                    (list(places.values()),),
                )
                if cursor.fetchone()[0] == 0:
                    _check_parents(names, constraints)
                    create_tables(cursor, schema, own_log(router), list(own_tables(router.topology.tables)))
                for name, place in places.items():
                    cursor.execute(f"SELECT EXISTS (SELECT FROM {place})")
                    if cursor.fetchone()[0]:
                        raise JobRefused(f"table {name} of the database has rows already: take an empty one")
            connection.commit()
        except psycopg2.Error as error:
            raise refused(error, DATABASE, gone=bool(connection.closed)) from error


def _check_parents(names: Sequence[str], constraints: Constraints) -> None:
    for key in constraints.foreign_keys:
        if key.table in names and key.parent not in names:
            raise JobRefused(
                f"{key.table} refers to {key.parent}, which is not among the tables: add it, or create the tables in "
                "the database beforehand, without that foreign key"
            )
