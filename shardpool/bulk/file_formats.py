"""How rows lie in files of each format: which columns there are, where a file can be cut, and the rows between cuts.

A cut of CSV and JSON lines is the number of the byte after a row's end; of Parquet, the number of a row group.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol, cast

from shardpool.bulk.arrow import load_arrow
from shardpool.bulk.fields import Fields
from shardpool.bulk.layout import SUFFIXES
from shardpool.bulk.values import to_field
from shardpool.errors import BadRow, JobRefused
from shardpool.topology.tables import Column

#: A row on its way: a record of COPY's text format, Python values, or what is wrong with it; after where it was.
Found = tuple[str, bytes | Mapping[str, Any] | BadRow]

_BOM = b"\xef\xbb\xbf"
#: Rows of JSON by which the types of columns are told.
LOOK = 1000


class Reader(Protocol):
    def columns(self) -> list[Column]:
        """Return the columns. Raise `JobRefused` for a file without any."""

    def cuts(self, rows: int) -> Iterator[int]:
        """Yield places at which the file can be cut, about every *rows* rows."""

    def rows(self, after: int | None, upto: int | None) -> Iterator[Found]:
        """Yield the rows between two cuts."""


def reader_of(path: Path) -> Reader:
    """Return the reader of a file, by its suffix; ``.gz`` may follow. Raise `JobRefused`."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    match suffixes[-1:]:
        case [".jsonl" | ".ndjson"]:
            return _JsonLines(path)
        case [".parquet"]:
            return _Parquet(path)
        case [".csv"]:
            return _Csv(path)
    raise JobRefused(f"{path}: what is read ends with .csv, .jsonl, .ndjson (or one of these + .gz) or .parquet")


class _Lines:
    """A file of lines. Compressed ones are not cut: nobody can begin to read in the middle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._packed = path.suffix.lower() == ".gz"

    def open(self) -> IO[bytes]:
        return cast("IO[bytes]", gzip.open(self.path)) if self._packed else self.path.open("rb")

    def whole(self, file: IO[bytes]) -> Iterator[bytes]:
        """Yield the lines from where *file* is; those that a quoted newline parts are one."""
        yield from file

    def cuts(self, rows: int) -> Iterator[int]:
        if self._packed:
            return
        with self.open() as file:
            place = 0
            for number, line in enumerate(self.whole(file)):
                place += len(line)
                if number and number % rows == 0:
                    yield place

    def lines(self, after: int | None, upto: int | None) -> Iterator[tuple[str, bytes]]:
        """Yield (place, line) between two cuts, without line ends and a byte order mark."""
        with self.open() as file:
            place = file.seek(after or 0)
            for line in self.whole(file):
                if upto is not None and place >= upto:
                    return
                told = f"byte {place}"
                place += len(line)
                yield told, line.removeprefix(_BOM).rstrip(b"\r\n")


class _Csv(_Lines):
    """CSV with a header. Values are text; an empty field is NULL, ``""`` is an empty text."""

    _fields = Fields(SUFFIXES[".csv"])

    def whole(self, file: IO[bytes]) -> Iterator[bytes]:
        begun: list[bytes] = []
        quotes = 0
        for line in file:
            quotes += line.count(b'"')
            if begun or quotes % 2:
                begun.append(line)
            if quotes % 2 == 0:
                yield b"".join(begun) if begun else line
                begun.clear()
        if begun:
            yield b"".join(begun)

    def columns(self) -> list[Column]:
        _, line = next(self.lines(None, None), ("", b""))
        names = self._values(line)
        if not line or None in names or len(set(names)) != len(names):
            raise JobRefused(f"{self.path} does not begin with a line of the columns' names")
        return [Column(str(name), "text") for name in names]

    def rows(self, after: int | None, upto: int | None) -> Iterator[Found]:
        width = len(self.columns())
        lines = self.lines(after, upto)
        if not after:
            next(lines, None)
        for place, line in lines:
            try:
                values = self._values(line)
            except (UnicodeDecodeError, ValueError) as error:
                yield place, BadRow(str(self.path), 0, f"not CSV in UTF-8: {type(error).__name__}")
                continue
            if len(values) != width:
                yield place, BadRow(str(self.path), 0, f"{len(values)} fields, expected {width}")
            else:
                yield place, b"\t".join(rb"\N" if value is None else to_field(value) for value in values)

    def _values(self, line: bytes) -> list[str | None]:
        if line.count(b'"') % 2:
            raise ValueError(line)
        decode = self._fields.decode
        return [None if (value := decode(raw)) is None else value.decode() for raw in self._fields.split(line)]


class _JsonLines(_Lines):
    """An object per line, all with the names of the first one; a name that is missing is NULL."""

    def columns(self) -> list[Column]:
        objects = [it for _, line in islice(self.lines(None, None), LOOK) if isinstance(it := self._object(line), dict)]
        if not objects or not objects[0]:
            raise JobRefused(f"{self.path} does not begin with a JSON object that names the columns")
        return [Column(name, _json_type([it.get(name) for it in objects])) for name in objects[0]]

    def rows(self, after: int | None, upto: int | None) -> Iterator[Found]:
        names = [column.name for column in self.columns()]
        known = frozenset(names)
        for place, line in self.lines(after, upto):
            if not line:
                continue
            row = self._object(line)
            if not isinstance(row, BadRow):
                unknown = [name for name in row if name not in known]
                if unknown:
                    row = BadRow(str(self.path), 0, f"a name that the first row has not: {unknown[0]!r:.60}")
                else:
                    row = {name: row.get(name) for name in names}
            yield place, row

    def _object(self, line: bytes) -> dict[str, Any] | BadRow:
        try:
            found = json.loads(line, parse_float=Decimal)
        except ValueError as error:
            return BadRow(str(self.path), 0, f"not JSON: {type(error).__name__}")
        return found if isinstance(found, dict) else BadRow(str(self.path), 0, "not a JSON object")


class _Parquet:
    """A file of Parquet, cut between its row groups."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = load_arrow().parquet.ParquetFile

    def columns(self) -> list[Column]:
        pa = load_arrow()
        with self._file(self._path) as file:
            return [Column(field.name, _sql_type(pa, field.type)) for field in file.schema_arrow]

    def cuts(self, rows: int) -> Iterator[int]:
        with self._file(self._path) as file:
            size = 0
            for group in range(file.num_row_groups):
                if size >= rows:
                    yield group
                    size = 0
                size += file.metadata.row_group(group).num_rows

    def rows(self, after: int | None, upto: int | None) -> Iterator[Found]:
        with self._file(self._path) as file:
            last = file.num_row_groups if upto is None else upto
            for group in range(after or 0, last):
                for number, row in enumerate(file.read_row_group(group).to_pylist()):
                    yield f"row {number} of group {group}", row


def _json_type(values: Sequence[Any]) -> str:
    """Return the type of values that are all of one kind, NULL aside; text for others."""
    kinds = {_kind(value) for value in values if value is not None}
    return kinds.pop() if len(kinds) == 1 else "text"


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | Decimal():
            return "numeric"
        case dict() | list():
            return "jsonb"
    return "text"


def _sql_type(pa: Any, type_: Any) -> str:
    tests: Sequence[tuple[Callable[[Any], bool], str]] = (
        (pa.types.is_boolean, "boolean"),
        (pa.types.is_integer, "bigint"),
        (pa.types.is_floating, "double precision"),
        (pa.types.is_date, "date"),
        (pa.types.is_binary, "bytea"),
        (pa.types.is_decimal, "numeric"),
        (pa.types.is_nested, "jsonb"),
    )
    if pa.types.is_timestamp(type_):
        return "timestamp with time zone" if type_.tz else "timestamp without time zone"
    return next((name for test, name in tests if test(type_)), "text")
