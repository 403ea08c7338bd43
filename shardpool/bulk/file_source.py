"""Files as a source: CSV, JSON lines and Parquet. A stream per file, cut where rows end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shardpool.bulk.chunk import Chunk, Record, Rejected, Rows, Stream
from shardpool.bulk.file_formats import reader_of
from shardpool.bulk.rows import RowWriter
from shardpool.errors import BadRow, JobRefused
from shardpool.topology.tables import Table

#: What the limit on concurrent chunks counts by: files are in no shard.
FILES = "files"


@dataclass(frozen=True)
class FileExtract:
    """Files of one format, all with the columns of *table*."""

    paths: tuple[Path, ...]
    table: Table


def file_extract(paths: Sequence[Path], name: str) -> FileExtract:
    """Look into the files. Raise `JobRefused` if there is none, or if they have not all the same columns."""
    if not paths:
        raise JobRefused("extract.files names no file that exists")
    found = {path: tuple(reader_of(path).columns()) for path in paths}
    first = found[paths[0]]
    for path, columns in found.items():
        names, expected = (", ".join(column.name for column in it) for it in (columns, first))
        if names != expected:
            raise JobRefused(f"{path} has the columns {names}; {paths[0]} has {expected}")
    return FileExtract(tuple(paths), Table(name, first))


class FileSource:
    """The rows of files."""

    def __init__(self, extract: FileExtract) -> None:
        self._paths = {str(path): path for path in extract.paths}
        self._table = extract.table
        self._columns = tuple(column.name for column in extract.table.columns)
        self._writer = RowWriter(extract.table, self._columns, [0])

    def streams(self) -> list[Stream]:
        return [Stream(name, self._table.name) for name in self._paths]

    def bounds(self, stream: Stream, chunk_rows: int) -> list[tuple[str, ...]]:
        return [(str(place),) for place in reader_of(self._paths[stream.name]).cuts(chunk_rows)]

    def read(self, chunk: Chunk) -> Rows:
        after, upto = (None if bound is None else int(bound[0]) for bound in (chunk.after, chunk.upto))
        return self._rows(chunk.stream, after, upto)

    def sample(self, stream: Stream, rows: int) -> Rows:
        first = next(iter(reader_of(self._paths[stream.name]).cuts(rows)), None)
        found = self._rows(stream.name, None, first)
        return replace(found, records=found.records[:rows])

    def shard_of(self, chunk: Chunk) -> str:
        return FILES

    def _rows(self, name: str, after: int | None, upto: int | None) -> Rows:
        """Return the rows as records; those that are none are told, and left out."""
        records: list[Record] = []
        places: list[str] = []
        rejects = []
        for place, row in reader_of(self._paths[name]).rows(after, upto):
            try:
                if isinstance(row, BadRow):
                    raise row
                records.append(row if isinstance(row, bytes) else self._writer.record(row))
                places.append(place)
            except BadRow as error:
                rejects.append(Rejected(f"{name}, {place}", error.reason))

        def describe(index: int) -> str:
            return f"{name}, {places[index]}"

        return Rows(self._table.name, self._columns, records, describe, types=self._table.columns, rejects=rejects)
