"""The job ``etl``: its ends are put together from [extract], [transform] and [load]."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shardpool.bulk.arrow import parquet_sink
from shardpool.bulk.chunk import Opened, Rejected, Rows, Sink, Source, Transform
from shardpool.bulk.database_sink import DatabaseSink
from shardpool.bulk.database_source import DATABASE
from shardpool.bulk.file_sink import csv_sink
from shardpool.bulk.file_source import FileExtract, FileSource, file_extract
from shardpool.bulk.keyspace_sink import KeyspaceSink, Writer, insert
from shardpool.bulk.query_source import DatabaseQuerySource, Extract, QuerySource
from shardpool.bulk.upsert import Upsert
from shardpool.config import Config
from shardpool.ddl.introspect import read_columns
from shardpool.engines import Engines
from shardpool.errors import JobRefused, UnknownTable
from shardpool.jobs.empty import empty
from shardpool.jobs.etl.extract import NAME, database_extract, keyspace_extract, windowed
from shardpool.jobs.etl.functions import Apply, FunctionAt, find_function
from shardpool.jobs.etl.whole import WholeSource
from shardpool.jobs.export import target_config
from shardpool.jobs.kind import Prepared, engines_in
from shardpool.jobs.spec import JobSpec, digest_of
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.tables import Table


@dataclass(frozen=True)
class EtlWork:
    """What another process needs."""

    token: str
    keyspace: Config
    source: Config | None
    target: Config | None
    extract: Extract | FileExtract
    function: FunctionAt | None
    table: Table
    load: Mapping[str, Any]
    directory: Path

    @contextmanager
    def open(self) -> Iterator[Opened]:
        with ExitStack() as stack:
            router = stack.enter_context(Router(self.keyspace, listen=False))
            yield self.ends(router, engines_in(stack, self.source), engines_in(stack, self.target))

    def ends(self, router: Router, source: Engines | None, target: Engines | None) -> Opened:
        reader: Source
        if isinstance(self.extract, FileExtract):
            reader = FileSource(self.extract)
        elif source is not None:
            reader = DatabaseQuerySource(source, self.extract)
        elif self.extract.whole:
            reader = WholeSource(router, self.extract)
        else:
            reader = QuerySource(router, self.extract)
        transform: Transform = Apply(self.function, self.table) if self.function else self._named
        return Opened(reader, self._sink(router, target), transform, router.refresh)

    def _named(self, rows: Rows) -> tuple[list[Rows], list[Rejected]]:
        return [replace(rows, table=self.table.name)], []

    def _sink(self, router: Router, target: Engines | None) -> Sink:
        writer: Writer = Upsert(self.table) if self.load.get("mode") == "upsert" else insert
        if target is not None and self.target is not None:
            return DatabaseSink(target, self.target.keyspace, writer)
        if "table" in self.load:
            return KeyspaceSink(router, writer)
        if self.load.get("format") == "parquet":
            return parquet_sink(self.directory, router.catalog, {self.table.name: self.table})
        return csv_sink(self.directory, router.catalog)


@contextmanager
def prepare(router: Router, spec: JobSpec, dry: bool) -> Iterator[Prepared]:
    """Check a spec and make the job ready."""
    document = spec.document
    extract, load, steps = document["extract"], document["load"], document.get("transform", {})
    if load.get("format") == "parquet" and steps:
        raise JobRefused("load.format = 'parquet' takes the types of the query: load what a function makes as csv")
    source = target_config(router, spec, extract) if "url" in extract else None
    target = target_config(router, spec, load) if "url" in load else None
    directory = spec.path(load.get("directory", "."))
    function = next((find_function(spec.directory, text, kind) for kind, text in steps.items()), None)
    with ExitStack() as stack:
        source_engines, target_engines = engines_in(stack, source), engines_in(stack, target)
        read = _read(router, spec, source_engines)
        table = _target_table(router, target, target_engines, load, read)
        if function is None:
            _check_computed(table, read.table)
        if target is None and "table" in load:
            _check_reserved(router, table, load)
        work = EtlWork(uuid.uuid4().hex, router.config, source, target, read, function, table, dict(load), directory)

        def check_new() -> None:
            if "directory" in load and directory.exists() and any(directory.iterdir()):
                raise JobRefused(f"{directory} is not empty: take a new directory")
            if load.get("mode") == "replace":
                _empty(router, target, target_engines, table)

        yield Prepared(
            work=work,
            opened=work.ends(router, source_engines, target_engines),
            digest=digest_of(spec, repr(table), repr(read.table), function, _files(read)),
            plan={"window": document["window"]} if "window" in document else {},
            check_new=check_new,
        )


def _read(router: Router, spec: JobSpec, source: Engines | None) -> Extract | FileExtract:
    """Return what is read."""
    document, extract = spec.document, spec.document["extract"]
    if "files" in extract:
        if "since" in extract or "key" in extract:
            raise JobRefused("extract.since and extract.key are for tables and queries: files are read whole")
        found = {path for pattern in extract["files"] for path in _matching(spec.directory, pattern) if path.is_file()}
        return file_extract(sorted(found), document["load"].get("table", NAME))
    if source is not None:
        return database_extract(source, document)
    read = keyspace_extract(router, document)
    return windowed(read, extract["since"], *document["window"]) if "since" in extract else read


def _matching(directory: Path, pattern: str) -> Iterator[Path]:
    root = Path(pattern).anchor
    return (Path(root) if root else directory).glob(pattern.removeprefix(root))


def _check_computed(table: Table, read: Table) -> None:
    """Raise `JobRefused` if what is read has columns that PostgreSQL computes in the table that is loaded."""
    computed = {it.name for it in table.columns if it.generated}
    if both := [it.name for it in read.columns if it.name in computed]:
        raise JobRefused(f"{table.name} computes {', '.join(both)} by itself: name the other columns in extract.query")


def _check_reserved(router: Router, table: Table, load: Mapping[str, Any]) -> None:
    """Raise `JobRefused` for rows whose reservations could not be kept: before any row is removed."""
    if table.name in router.topology.reservations:
        raise JobRefused(f"{table.name} holds the reservations of another table's unique columns: load that table")
    if table.unique and load.get("mode") == "upsert":
        raise JobRefused(
            f"load.mode = 'upsert' could change unique columns of {table.name}: load into another table, and "
            "INSERT .. SELECT with ON CONFLICT by query()"
        )


def _files(read: Extract | FileExtract) -> list[object]:
    """What must be the same of files when a job is resumed: names, sizes, and when they were written."""
    if not isinstance(read, FileExtract):
        return []
    return [(str(path), (status := path.stat()).st_size, status.st_mtime_ns) for path in read.paths]


def _empty(router: Router, target: Config | None, engines: Engines | None, table: Table) -> None:
    """Remove the rows that are to be replaced."""
    if engines is None or target is None:
        empty(router, [table.name, *dict(table.unique).values()])
        return
    with engines.borrow(DATABASE) as connection:
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '30s'; TRUNCATE {quote(target.keyspace)}.{quote(table.name)}")
        connection.commit()


def _target_table(
    router: Router, target: Config | None, engines: Engines | None, load: Mapping[str, Any], read: Extract | FileExtract
) -> Table:
    """Return the table that is loaded; for files, what is read. Raise `UnknownTable`."""
    if "table" not in load:
        return replace(read.table, name=NAME)
    if engines is None or target is None:
        tables, where = router.topology.tables, router.topology.keyspace
    else:
        with engines.borrow(DATABASE) as connection, connection.cursor() as cursor:
            tables, where = read_columns(cursor, target.keyspace), target.keyspace
    if load["table"] not in tables:
        raise UnknownTable(load["table"], where, list(tables))
    return tables[load["table"]]
