"""Who is told of changes: another database, files, or a function.

A database takes a batch in one transaction, with its number: so it has each change once, and every transaction of a
partition whole. Files and functions are told at least once: the number is taken first, then the batch is told, and if
that was not heard of, the changes are told again, under another number and the same ids.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psycopg2

from shardpool.bulk.chunk import Record
from shardpool.bulk.database_source import DATABASE
from shardpool.bulk.json_lines import json_rows
from shardpool.bulk.keyspace_sink import insert
from shardpool.bulk.positions import CATALOG, Positions
from shardpool.bulk.python_rows import python_rows
from shardpool.bulk.rejects import whole_file
from shardpool.bulk.translate import refused
from shardpool.catalog import Catalog
from shardpool.faults import fault_point
from shardpool.jobs.keyed_rows import Key, delete_rows
from shardpool.jobs.reference import make_equal
from shardpool.jobs.replicate.changes import Page
from shardpool.topology.names import quote
from shardpool.topology.tables import Table

if TYPE_CHECKING:
    from shardpool.engines import Engines

#: Beside the ledger of copies into a database.
POSITIONS = "shardpool_jobs.position"
#: Stands for the number of a partition where reference tables are told of.
REFERENCES = -1
#: What waits for a lock of the destination gives up after that.
LOCK_TIMEOUT = "30s"


class Receiver(Protocol):
    """Takes batches of changes, of one partition after another, by several threads."""

    def begin(self, job: uuid.UUID) -> None:
        """Be the only run that tells changes."""

    def take(self, partition: int, pages: Iterable[Page]) -> int:
        """Take a batch; return how many changes it had. What is taken need not be told again."""


class DatabaseReceiver:
    """Puts the rows of changes in the place of what *schema* of a database has under their keys."""

    def __init__(self, engines: Engines, schema: str) -> None:
        self._engines, self._schema = engines, schema
        self._positions: Positions | None = None

    def begin(self, job: uuid.UUID) -> None:
        positions = self._positions = Positions(POSITIONS, job, uuid.uuid4())

        def claim(cursor: Any) -> None:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('shardpool jobs'))")
            positions.create(cursor)
            positions.claim(cursor)

        self._do(claim)

    def take(self, partition: int, pages: Iterable[Page]) -> int:
        positions = self._positions
        assert positions is not None

        def apply(cursor: Any) -> int:
            positions.next(cursor, partition)
            count = 0
            for page in pages:
                count += len(page.keys)
                delete_rows(cursor, self._schema, page.table, page.keys)
                relation = f"{quote(self._schema)}.{quote(page.table.name)}"
                insert(cursor.connection, "", relation, page.table.insertable, page.records, 0)
            fault_point("batch-applied")
            return count

        count: int = self._do(apply)
        fault_point("batch-committed")
        return count

    def take_whole(self, table: Table, rows: Mapping[Key, Record]) -> int:
        """Make a table equal to a reference table; return how many rows differed."""
        positions = self._positions
        assert positions is not None

        def apply(cursor: Any) -> int:
            positions.next(cursor, REFERENCES)
            return make_equal(cursor, self._schema, table, rows)

        count: int = self._do(apply)
        return count

    def _do(self, work: Callable[[Any], Any]) -> Any:
        with self._engines.borrow(DATABASE) as connection:
            try:
                with connection.cursor() as cursor:
                    cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                    result = work(cursor)
                connection.commit()
                return result
            except psycopg2.Error as error:
                raise refused(error, DATABASE, gone=bool(connection.closed)) from error


class _Numbered:
    """Counts batches in the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._positions: Positions | None = None

    def begin(self, job: uuid.UUID) -> None:
        self._positions = Positions(CATALOG, job, uuid.uuid4())
        with self._catalog.begin() as connection:
            self._positions.claim(connection.connection.cursor())

    def next(self, partition: int) -> int:
        assert self._positions is not None
        with self._catalog.begin() as connection:
            return self._positions.next(connection.connection.cursor(), partition)


class FileReceiver(_Numbered):
    """Writes each batch as ``<directory>/changes/p0003/000000000012.jsonl``, a change per line."""

    def __init__(self, directory: Path, catalog: Catalog) -> None:
        super().__init__(catalog)
        self._directory = directory

    def take(self, partition: int, pages: Iterable[Page]) -> int:
        number, count = self.next(partition), 0
        path = self._directory / "changes" / f"p{partition:04d}" / f"{number:012d}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            for page in pages:
                for change in page.changes():
                    (row,) = json_rows(change.columns, [change.record])
                    file.write(f'{{"id": "{change.id}", {head(page.table.name, change.op)}: {row}}}\n'.encode())
                    count += 1
        fault_point("batch-committed")
        return count


def head(table: str, op: str) -> str:
    """Return the beginning of what tells a row in JSON: its table, what became of it, and the name of what follows."""
    return f'"table": {json.dumps(table)}, "op": "{op}", "{"key" if op == "delete" else "row"}"'


class FunctionReceiver(_Numbered):
    """Calls a function with the changes of a page: mappings with id, table, op, partition, batch, and row or key."""

    def __init__(self, function: Callable[[list[Mapping[str, Any]]], object], catalog: Catalog) -> None:
        super().__init__(catalog)
        self._function = function

    def take(self, partition: int, pages: Iterable[Page]) -> int:
        number, count = self.next(partition), 0
        for page in pages:
            told: list[Mapping[str, Any]] = []
            for change in page.changes():
                (row,) = python_rows(change.columns, [change.record])
                place = {"partition": partition, "batch": number}
                what = {"id": change.id, "table": page.table.name, "op": change.op}
                told.append({**what, **place, "key" if change.op == "delete" else "row": row})
            self._function(told)
            count += len(told)
        fault_point("batch-committed")
        return count
