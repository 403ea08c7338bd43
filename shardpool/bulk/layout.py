"""How the bytes of a source are to be read: the options of COPY, and what a file's suffix says about them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from shardpool.errors import LoadError
from shardpool.topology.names import literal

Format = Literal["csv", "text"]

QUOTE = b'"'


@dataclass(frozen=True)
class Layout:
    """The options of one COPY. `delimiter` is one byte; `trailing`: a delimiter may also end each row (dbgen)."""

    format: Format
    delimiter: bytes
    null: bytes
    header: bool
    trailing: bool = False

    def copy_options(self) -> str:
        """Return the options for a batch of rows, which has no header and lines that end with a newline."""
        delimiter, null = literal(self.delimiter.decode()), literal(self.null.decode())
        return f"FORMAT {self.format}, DELIMITER {delimiter}, NULL {null}, ENCODING 'UTF8'"


COPY_TEXT = Layout("text", b"\t", rb"\N", header=False)
_CSV = Layout("csv", b",", b"", header=True)
_DEFAULTS: dict[Format, Layout] = {"csv": _CSV, "text": COPY_TEXT}

#: The options of COPY for lines of such a file.
CSV_LINES = "(FORMAT csv, ENCODING 'UTF8')"

#: Suffix -> layout; ``.gz`` may follow.
SUFFIXES = {
    ".csv": _CSV,
    ".tbl": Layout("csv", b"|", b"", header=False, trailing=True),
    ".tsv": COPY_TEXT,
    ".txt": COPY_TEXT,
    ".copy": COPY_TEXT,
}

#: What COPY forbids as a delimiter of the text format: it could not be told from an escape.
_FORBIDDEN_IN_TEXT = re.compile(rb"[\\.a-z0-9]")


@dataclass(frozen=True)
class FileOptions:
    """What the caller says about a file; None leaves it to the suffix, and then to COPY's default."""

    format: Format | None = None
    delimiter: str | None = None
    header: bool | None = None
    null: str | None = None


def layout_of(source: str, options: FileOptions) -> Layout:
    """Return the layout of the source named *source*: what is given, else what its suffix says, else COPY's defaults.

    Raise `LoadError` if the format is neither given nor known from the suffix, or if an option is not one of COPY's.
    """
    format = options.format
    path = PurePath(source.lower())
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    known = SUFFIXES.get(suffix)
    if format not in (None, "csv", "text"):
        raise LoadError(f"format {format!r} is not 'csv' or 'text'")
    if known is None and format is None:
        raise LoadError(
            f"{source}: format= is needed, as the name does not end with {', '.join(SUFFIXES)} (or one of these + .gz)"
        )
    base = known if known is not None and format in (None, known.format) else _DEFAULTS[format or "csv"]
    layout = Layout(
        format=base.format,
        delimiter=base.delimiter if options.delimiter is None else options.delimiter.encode(),
        null=base.null if options.null is None else options.null.encode(),
        header=base.header if options.header is None else options.header,
        trailing=base.trailing,
    )
    _check(layout)
    return layout


def _check(layout: Layout) -> None:
    delimiter, null = layout.delimiter, layout.null
    if len(delimiter) != 1 or delimiter in b"\n\r\0":
        raise LoadError(f"delimiter {delimiter.decode()!r} is not a single one-byte character")
    if layout.format == "text" and _FORBIDDEN_IN_TEXT.match(delimiter):
        raise LoadError(f"delimiter {delimiter.decode()!r} is not possible in the text format")
    if layout.format == "csv" and (delimiter == QUOTE or QUOTE in null):
        raise LoadError("the quote character can be neither delimiter nor part of null= in the CSV format")
    if delimiter in null or re.search(rb"[\n\r\0]", null):
        raise LoadError(f"null {null.decode()!r} contains the delimiter or a line end")
