"""A source made ready: its columns known, its rows as blocks, each row with its partition."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any, cast

from shardpool.bulk.fields import Fields
from shardpool.bulk.layout import COPY_TEXT, FileOptions, Layout, layout_of
from shardpool.bulk.records import Block, read_blocks
from shardpool.bulk.route import RecordRouter
from shardpool.bulk.rows import SOURCE, RowWriter, columns_of_rows
from shardpool.bulk.source import Stream, open_stream, source_name
from shardpool.errors import LoadError, MissingPartitionKey
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

Source = str | os.PathLike[str] | IO[Any] | Iterable[object]


@dataclass(frozen=True)
class Feed:
    """A source that is open: its rows as blocks with places, and how to tell COPY about them."""

    source: str
    layout: Layout
    columns: Sequence[str]
    blocks: Iterator[Block]
    position: Callable[[], int]
    total: int | None


@contextmanager
def open_feed(
    topology: Topology, table: Table, source: Source, options: FileOptions, columns: Sequence[str] | None
) -> Iterator[Feed]:
    """Open *source* for *table*. Raise `LoadError`, `MissingPartitionKey`, `OSError`, and `BadRow` while it is read."""
    if isinstance(source, str | os.PathLike) or hasattr(source, "read"):
        source = cast("str | os.PathLike[str] | IO[Any]", source)
        layout = layout_of(source_name(source), options)
        with open_stream(source) as stream:
            yield _file_feed(topology, table, stream, layout, columns)
    elif options != FileOptions():
        raise LoadError("format, delimiter, header and null are for files, not for an iterable of rows")
    else:
        yield _row_feed(topology, table, source, columns)


def _row_feed(topology: Topology, table: Table, rows: Iterable[object], columns: Sequence[str] | None) -> Feed:
    if columns is None:
        columns, rows = columns_of_rows(rows, table.insertable)
    _check_columns(table, columns, SOURCE)
    blocks = RowWriter(table, columns, _lows(topology)).blocks(rows)
    return Feed(SOURCE, COPY_TEXT, columns, blocks, position=lambda: 0, total=None)


def _file_feed(topology: Topology, table: Table, stream: Stream, layout: Layout, columns: Sequence[str] | None) -> Feed:
    fields = Fields(layout)
    blocks = read_blocks(stream.read, layout, stream.name)
    first = next(blocks, None)
    if first is not None and layout.header:
        names = _take_header(first, fields, stream.name)
        if layout.trailing and names[-1] == "":
            names.pop()
        columns = columns or names
        if not first.records:
            first = next(blocks, None)
    columns = columns or table.insertable
    _check_columns(table, columns, stream.name)
    if first is not None:
        blocks = chain([first], blocks)
        if layout.trailing and len(raws := fields.split(first.records[0])) == len(columns) + 1 and not raws[-1]:
            blocks = _without_trailing(blocks, layout.delimiter)
    if table.sharded:
        blocks = _routed(blocks, RecordRouter(table, _lows(topology), layout, fields, columns, stream.name))
    return Feed(stream.name, layout, columns, blocks, stream.position, stream.total)


def _take_header(block: Block, fields: Fields, source: str) -> list[str]:
    """Remove the header from the first block and return its names."""
    names = []
    for raw in fields.split(block.records.pop(0)):
        try:
            names.append((fields.decode(raw) or b"").decode())
        except UnicodeDecodeError:
            raise LoadError(f"{source}: the header is not valid UTF-8") from None
    if block.starts is not None:
        block.starts.pop(0)
    block.first += 1
    return names


def _check_columns(table: Table, columns: Sequence[str], source: str) -> None:
    for name in columns:
        if table.column(name) is None:
            known = ", ".join(table.insertable)
            raise LoadError(f"{source}: table {table.name!r} has no column {name!r} (its columns: {known})")
    if len(set(columns)) != len(columns):
        twice = next(name for name in columns if list(columns).count(name) > 1)
        raise LoadError(f"{source}: column {twice!r} is named twice")
    missing = [name for name in table.key if name not in columns]
    if missing:
        raise MissingPartitionKey(
            f"{source}: the partition key {missing[0]!r} of table {table.name!r} is not among the columns"
        )


def _without_trailing(blocks: Iterator[Block], delimiter: bytes) -> Iterator[Block]:
    for block in blocks:
        block.records = [record.removesuffix(delimiter) for record in block.records]
        yield block


def _routed(blocks: Iterator[Block], router: RecordRouter) -> Iterator[Block]:
    for block in blocks:
        router.route(block)
        yield block


def _lows(topology: Topology) -> list[int]:
    return [partition.low for partition in topology.shard_map.partitions]
