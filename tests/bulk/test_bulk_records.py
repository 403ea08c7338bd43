"""Where records begin and end, without a server; `test_bulk_oracle` compares the same with PostgreSQL."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest

from shardpool.bulk import records
from shardpool.bulk.fields import Ambiguous, Fields
from shardpool.bulk.layout import COPY_TEXT, SUFFIXES, FileOptions, Layout, layout_of
from shardpool.bulk.records import read_blocks
from shardpool.errors import BadRow, LoadError

CSV = Layout("csv", b",", b"", header=False)


def read(data: bytes, layout: Layout) -> list[tuple[int, bytes]]:
    """Return (line, record) of all records."""
    return [
        (block.line(index), record)
        for block in read_blocks(io.BytesIO(data).read, layout, "f")
        for index, record in enumerate(block.records)
    ]


@pytest.fixture(params=[1, 2, 5, 1 << 20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every case is read whole and in small chunks, which end anywhere."""
    monkeypatch.setattr(records, "CHUNK_BYTES", request.param)
    return int(request.param)


CASES = [
    ("lines", CSV, b"a,b\nc,d\n", [(1, b"a,b"), (2, b"c,d")]),
    ("no newline at the end", CSV, b"a\nb", [(1, b"a"), (2, b"b")]),
    ("empty lines are records", CSV, b"a\n\n\nb\n\n", [(1, b"a"), (2, b""), (3, b""), (4, b"b"), (5, b"")]),
    ("nothing", CSV, b"", []),
    ("crlf", CSV, b"a\r\nb\r\n", [(1, b"a"), (2, b"b")]),
    ("crlf, none at the end", CSV, b"a\r\nb", [(1, b"a"), (2, b"b")]),
    ("newline in quotes", CSV, b'a,"x\ny"\nb,"\n\n"\nc\n', [(1, b'a,"x\ny"'), (3, b'b,"\n\n"'), (6, b"c")]),
    ("newline in quotes that begin within a field", CSV, b'a"\n"b\nc\n', [(1, b'a"\n"b'), (3, b"c")]),
    ("doubled quotes", CSV, b'"a""\n"\n"b"""\n', [(1, b'"a""\n"'), (3, b'"b"""')]),
    ("either line end in quotes", CSV, b'"a\nb\r\nc"\r\nd\r\n', [(1, b'"a\nb\r\nc"'), (4, b"d")]),
    ("carriage return in quotes", CSV, b'"a\rb"\nc\n', [(1, b'"a\rb"'), (2, b"c")]),
    ("byte order mark", CSV, b"\xef\xbb\xbfa\nb\n", [(1, b"a"), (2, b"b")]),
    ("byte order mark alone", CSV, b"\xef\xbb\xbf", []),
    ("quotes mean nothing in text", COPY_TEXT, b'"a\n"b\n', [(1, b'"a'), (2, b'"b')]),
    ("escaped newline", COPY_TEXT, b"a\\\nb\nc\n", [(1, b"a\\\nb"), (3, b"c")]),
    ("escaped backslash, then newline", COPY_TEXT, b"a\\\\\nb\n", [(1, b"a\\\\"), (2, b"b")]),
    ("escaped newline at the end", COPY_TEXT, b"a\\\n", [(1, b"a\\\n")]),
    ("backslash at the end", COPY_TEXT, b"a\nb\\", [(1, b"a"), (2, b"b")]),
    ("escaped carriage return", COPY_TEXT, b"a\\\r\nb\n", [(1, b"a\\\r"), (2, b"b")]),
    ("end of data", COPY_TEXT, b"a\n\\.\nb\n", [(1, b"a")]),
    ("end of data, crlf", COPY_TEXT, b"a\r\n\\.\r\n", [(1, b"a")]),
    ("returns after the end of data", COPY_TEXT, b"a\n\\.\nb\r\n", [(1, b"a")]),
    ("whatever after the end of data", COPY_TEXT, b"a\n\\.\n\0\n", [(1, b"a")]),
    ("end of data first", COPY_TEXT, b"\\.\n", []),
    ("escaped backslash, then dot", COPY_TEXT, b"\\\\.\nb\n", [(1, b"\\\\."), (2, b"b")]),
]


@pytest.mark.parametrize(("layout", "data", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_records(layout: Layout, data: bytes, expected: list[tuple[int, bytes]], chunk: int) -> None:
    assert read(data, layout) == expected


REFUSED = [
    ("NUL", CSV, b"a\nb\nc\0\n", 3, "0x00"),
    ("NUL in quotes", CSV, b'a\n"\nb\0"\n', 2, "0x00"),
    ("newline among crlf", CSV, b"a\r\nb\nc\r\n", 2, "newline"),
    ("crlf among newlines", CSV, b"a\nb\r\n", 2, "carriage return"),
    ("carriage return within a line", CSV, b'a\n"x",b\rc\n', 2, "carriage return"),
    ("carriage return at the end", CSV, b"a\r\nb\r", 2, "carriage return"),
    ("line ends of an old Macintosh", CSV, b"a\rb\r", 1, "carriage return"),
    ("carriage return at the end of the only line", CSV, b"a\r", 1, "carriage return"),
    ("carriage return before a backslash", COPY_TEXT, b"\\\\\r\\", 1, "carriage return"),
    ("open quote", CSV, b'a\nb,"c\nd\n', 2, "unterminated"),
    ("UTF-16", CSV, "a,b\n".encode("utf-16"), 1, "UTF-16"),
    ("end-of-data marker in CSV", CSV, b"a\n\\.\n", 2, "marker"),
    ("escaped return in crlf", COPY_TEXT, b"a\r\nb\\\r\nc\r\n", 2, "carriage return"),
    ("newline among crlf in text", COPY_TEXT, b"a\r\nb\n", 2, "newline"),
    ("marker without newline", COPY_TEXT, b"a\n\\.", 2, "marker"),
    ("marker and a backslash", COPY_TEXT, b"a\n\\.\\", 2, "marker"),
    ("marker not alone", COPY_TEXT, b"a\nb\\.\n", 2, "marker"),
]


@pytest.mark.parametrize(
    ("layout", "data", "line", "reason"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_refused(layout: Layout, data: bytes, line: int, reason: str, chunk: int) -> None:
    with pytest.raises(BadRow, match=reason) as caught:
        read(data, layout)
    assert (caught.value.source, caught.value.line) == ("f", line)


def test_a_lost_quote_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CHUNK_BYTES", 10)
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 1000)
    source = io.BytesIO(b'a\nb,"' + b"c\n" * 100_000)
    with pytest.raises(BadRow, match="more than 1,000 bytes") as caught:
        list(read_blocks(source.read, CSV, "f"))
    assert caught.value.line == 2
    assert source.tell() < 10_000


def test_a_record_of_many_chunks_is_read_in_growing_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CHUNK_BYTES", 4)
    sizes = []
    source = io.BytesIO(b'"' + b"x\n" * 5000 + b'"\nb\n')

    def counted(size: int) -> bytes:
        sizes.append(size)
        return source.read(size)

    assert sum(len(block.records) for block in read_blocks(counted, CSV, "f")) == 2
    assert len(sizes) < 20
    assert all(later >= earlier for earlier, later in pairwise(sizes[:-2]))


@pytest.mark.parametrize(
    ("layout", "record", "raws", "values"),
    [
        (CSV, b'a,"b,c",', [b"a", b'"b,c"', b""], [b"a", b"b,c", None]),
        (CSV, b'"",x"y,z"w,""""', [b'""', b'x"y,z"w', b'""""'], [b"", b"xy,zw", b'"']),
        (CSV, b"", [b""], [None]),
        (COPY_TEXT, b"a\tb\\\tc\t\\N", [b"a", b"b\\\tc", b"\\N"], [b"a", b"b\tc", None]),
        (COPY_TEXT, rb"\b\f\n\r\t\v\\\q" + b"\t" + rb"\101\x42\x4\7\\N", None, [b"\b\f\n\r\t\v\\q", b"AB\x04\x07\\N"]),
        (COPY_TEXT, rb"\x\8\400\0601", None, [b"x8" + bytes(1) + b"01"]),
    ],
)
def test_fields(layout: Layout, record: bytes, raws: list[bytes] | None, values: list[bytes | None]) -> None:
    fields = Fields(layout)
    cut = fields.split(record)
    assert raws is None or cut == raws
    assert [fields.decode(raw) for raw in cut] == values


@pytest.mark.parametrize(("layout", "raw"), [(CSV, b'"a'), (CSV, b'a"""'), (COPY_TEXT, b"a\\"), (COPY_TEXT, b"\\\\\\")])
def test_half_a_field_is_ambiguous(layout: Layout, raw: bytes) -> None:
    with pytest.raises(Ambiguous):
        Fields(layout).decode(raw)


def test_layouts() -> None:
    assert layout_of("a/b.CSV.gz", FileOptions()) == SUFFIXES[".csv"]
    assert layout_of("x.tbl", FileOptions(format="csv")).delimiter == b"|"
    assert layout_of("x.tbl", FileOptions(format="text")) == COPY_TEXT
    assert layout_of("x.tsv", FileOptions(null="", header=True)) == Layout("text", b"\t", b"", header=True)
    assert layout_of("anything", FileOptions(format="csv")).header


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("x.dat", FileOptions(), "format= is needed"),
        ("x", FileOptions(format="json"), "not 'csv' or 'text'"),  # type: ignore[arg-type]
        ("x.csv", FileOptions(delimiter="::"), "single"),
        ("x.csv", FileOptions(delimiter=""), "single"),
        ("x.csv", FileOptions(delimiter="é"), "single"),
        ("x.csv", FileOptions(delimiter='"'), "quote"),
        ("x.csv", FileOptions(null='"'), "quote"),
        ("x.tsv", FileOptions(delimiter="a"), "text format"),
        ("x.tsv", FileOptions(null="a\tb"), "null"),
    ],
)
def test_options_that_copy_refuses(name: str, options: FileOptions, reason: str) -> None:
    with pytest.raises(LoadError, match=reason):
        layout_of(name, options)
