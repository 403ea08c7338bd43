"""Files as a sink: each chunk is a file of its own, there whole or not at all, then entered in the catalog's ledger.

A chunk that was not entered writes its file again, under the same name: so each row is in one file once.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from shardpool.bulk.chunk import Record, Rejected, Rows, Tally, Ticket
from shardpool.bulk.fields import Fields
from shardpool.bulk.layout import COPY_TEXT
from shardpool.bulk.ledger import enter_alone, refuse_entered, written
from shardpool.bulk.rejects import replace_file, write_rejects
from shardpool.catalog import Catalog
from shardpool.topology.tables import Table

#: Makes the content of a file.
Encode = Callable[[Rows], bytes]


class FileSink:
    """Writes ``<directory>/<table>/<chunk>.<suffix>`` as *encode* makes it."""

    def __init__(self, directory: Path, catalog: Catalog, suffix: str, encode: Encode) -> None:
        self._directory, self._catalog, self._suffix, self._encode = directory, catalog, suffix, encode

    def prepare(self, job: uuid.UUID) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)

    def done(self, job: uuid.UUID) -> dict[int, Tally]:
        return written(self._catalog, job)

    def settle(self, ticket: Ticket) -> None:
        """Nothing is ever in doubt: a file is written again, and the ledger takes a chunk once."""

    def finish(self, job: uuid.UUID) -> None:
        """Remove what writers that died have begun."""
        for path in self._directory.glob(f"*/.*.{self._suffix}.*"):
            path.unlink(missing_ok=True)

    def forget(self, job: uuid.UUID) -> None:
        """The ledger is the catalog's, and stays."""

    def write(self, ticket: Ticket, batches: Sequence[Rows], rejects: Sequence[Rejected]) -> Tally:
        refuse_entered(self._catalog, ticket)
        rows = size = 0
        for batch in batches:
            if batch.records:
                rows, size = rows + len(batch.records), size + self._write_file(batch, ticket.chunk.number)
        tally = Tally(rows, size, len(rejects), tuple(rejects))
        write_rejects(ticket, rejects)
        enter_alone(self._catalog, ticket, tally)
        return tally

    def write_empty(self, tables: Iterable[Table]) -> None:
        """Write a file without rows for each of *tables* that had none: so whoever reads them finds its columns."""
        for table in tables:
            if not (self._directory / table.name).exists():
                types = [it for it in table.columns if not it.generated]
                self._write_file(Rows(table.name, table.insertable, [], str, types=types), 0)

    def _write_file(self, rows: Rows, number: int) -> int:
        """Return how many bytes it has."""
        data = self._encode(rows)
        path = self._directory / rows.table / f"{number:06d}.{self._suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
        return len(data)


def csv_sink(directory: Path, catalog: Catalog) -> FileSink:
    """Return a sink of CSV files with headers. An empty field is NULL, ``""`` is an empty text."""
    return FileSink(directory, catalog, "csv", to_csv)


def to_csv(rows: Rows) -> bytes:
    """Return rows as CSV, as PostgreSQL's COPY .. WITH (FORMAT csv, HEADER) would. Those that a server has written so
    are left as they are."""
    header = b",".join(_quoted(name.encode()) for name in rows.columns) + b"\n"
    return b"".join([header, *(rows.records if rows.as_text else map(_line, rows.records))])


def _line(record: Record) -> bytes:
    decode = Fields(COPY_TEXT).decode
    return b",".join(_quoted(decode(field)) for field in record.split(b"\t")) + b"\n"


def _quoted(value: bytes | None) -> bytes:
    if value is None:
        return b""
    if not value or any(sign in value for sign in b',"\n\r') or value == rb"\.":
        return b'"' + value.replace(b'"', b'""') + b'"'
    return value
