"""The job ``export``: a keyspace out of shardpool, to files of CSV or Parquet, or into one PostgreSQL database."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from shardpool.bulk.arrow import parquet_sink
from shardpool.bulk.chunk import Opened, Sink
from shardpool.bulk.database_sink import DatabaseSink
from shardpool.bulk.database_source import DATABASE, database_config
from shardpool.bulk.digest import digest_in
from shardpool.bulk.file_sink import csv_sink
from shardpool.bulk.keyspace_source import KeyspaceSource
from shardpool.config import Config, parse_endpoint
from shardpool.engines import Engines
from shardpool.errors import ConfigError, JobRefused, UnknownTable
from shardpool.jobs.constraints import read_constraints, self_referring, stages
from shardpool.jobs.copy_schema import own_tables, statements_of
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
        source = KeyspaceSource(router, self.stages, self.uncut)
        sink: Sink
        if engines is not None and self.target is not None:
            sink = DatabaseSink(engines, self.target.keyspace)
        elif self.format == "parquet":
            sink = parquet_sink(self.directory, router.catalog, router.topology.tables)
        else:
            sink = csv_sink(self.directory, router.catalog)
        return Opened(source, sink, refresh=router.refresh)


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

        def check_new() -> None:
            if engines is not None:
                _create_tables(engines, router, names)
            elif directory.exists() and any(directory.iterdir()):
                raise JobRefused(f"{directory} is not empty: take a new directory")

        def verify() -> Mapping[str, Any]:
            if engines is None:
                return {}
            with engines.borrow(DATABASE) as connection, connection.cursor() as cursor:
                found = {name: [digest_in(cursor, quote(name), tables[name].columns)] for name in names}
            digests = digests_of(router, {name: tables[name] for name in names})
            compare({name: whole(name, digests[name]) for name in names}, found)
            return {"verified_rows": {name: rows for name, [(rows, _)] in found.items()}}

        yield Prepared(
            work=work,
            opened=work.ends(router, engines),
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


def _create_tables(engines: Engines, router: Router, names: list[str]) -> None:
    """Run the keyspace's own DDL in the database, if it lacks the tables. Raise `JobRefused` if they have rows."""
    with engines.borrow(DATABASE) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM unnest(%s::text[]) name WHERE to_regclass(name) IS NOT NULL", (_quoted(names),)
            )
            if cursor.fetchone()[0] == 0:
                for statement in statements_of(router):
                    cursor.execute(statement)
            for name in names:
                cursor.execute(f"SELECT EXISTS (SELECT FROM {quote(name)})")
                if cursor.fetchone()[0]:
                    raise JobRefused(f"table {name} of the database has rows already: take an empty one")
        connection.commit()


def _quoted(names: list[str]) -> list[str]:
    return [quote(name) for name in names]
