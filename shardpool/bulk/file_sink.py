"""Files as a sink: each chunk is a file of its own, there whole or not at all, then entered in the catalog's ledger.

A chunk that was not entered writes its file again, under the same name: so each row is in one file once.
"""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from shardpool.bulk.chunk import Record, Rejected, Rows, Tally, Ticket
from shardpool.bulk.fields import Fields
from shardpool.bulk.layout import COPY_TEXT
from shardpool.bulk.ledger import enter_alone, refuse_entered, written
from shardpool.bulk.rejects import replace_file, write_rejects
from shardpool.catalog import Catalog

#: Makes the content of a file: (table, columns, records) -> bytes.
Encode = Callable[[str, Sequence[str], Sequence[Record]], bytes]


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

    def write(self, ticket: Ticket, batches: Sequence[Rows], rejects: Sequence[Rejected]) -> Tally:
        refuse_entered(self._catalog, ticket)
        rows = size = 0
        for batch in batches:
            if batch.records:
                data = self._encode(batch.table, batch.columns, batch.records)
                path = self._directory / batch.table / f"{ticket.chunk.number:06d}.{self._suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, data)
                rows, size = rows + len(batch.records), size + len(data)
        tally = Tally(rows, size, len(rejects), tuple(rejects))
        write_rejects(ticket, rejects)
        enter_alone(self._catalog, ticket, tally)
        return tally


def csv_sink(directory: Path, catalog: Catalog) -> FileSink:
    """Return a sink of CSV files with headers. An empty field is NULL, ``""`` is an empty text."""
    return FileSink(directory, catalog, "csv", lambda table, columns, records: to_csv(columns, records))


def to_csv(columns: Sequence[str], records: Sequence[Record]) -> bytes:
    """Return records of COPY's text format as CSV, as PostgreSQL's COPY .. WITH (FORMAT csv, HEADER) would."""
    decode = Fields(COPY_TEXT).decode
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(columns)
    lines = [out.getvalue().encode()]
    for record in records:
        lines.append(b",".join(_quoted(decode(field)) for field in record.split(b"\t")) + b"\n")
    return b"".join(lines)


def _quoted(value: bytes | None) -> bytes:
    if value is None:
        return b""
    if not value or any(sign in value for sign in b',"\n\r') or value == rb"\.":
        return b'"' + value.replace(b'"', b'""') + b'"'
    return value
