"""Which partition each record of a file belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from shardpool.bulk.fields import Ambiguous, Fields
from shardpool.bulk.keys import CompositePlaces, KeyFault, Places
from shardpool.bulk.layout import Layout
from shardpool.bulk.records import Block
from shardpool.errors import BadRow
from shardpool.topology.tables import Table


class RecordRouter:
    """Fills in `Block.places` for the records of a source that has the columns *columns*."""

    def __init__(
        self, table: Table, lows: Sequence[int], layout: Layout, fields: Fields, columns: Sequence[str], source: str
    ) -> None:
        self._table, self._columns, self._source = table, columns, source
        self._fields = fields
        self._delimiter = layout.delimiter
        indexes = tuple(columns.index(name) for name in table.key)
        self._indexes = indexes
        self._last = max(indexes)
        # The groups of a pattern come in the order of the record; the key has an order of its own.
        order = sorted(indexes)
        self._group = itemgetter(*[order.index(index) + 1 for index in indexes])
        self._match: Callable[[bytes], Any] = fields.pattern(indexes).match
        self._places: Any = (Places if len(indexes) == 1 else CompositePlaces)(fields, table, lows)

    def route(self, block: Block) -> None:
        """Set ``block.places``. Raise `BadRow` for a record without a valid key."""
        try:
            # A first field is recognised as whole when it is read; later ones depend on those before them.
            if block.plain or self._indexes == (0,):
                try:
                    block.places = self._cut(block.records)
                    return
                except Ambiguous:
                    pass
            places, match, group = self._places, self._match, self._group
            block.places = [places[group(match(record))] for record in block.records]
        except (KeyFault, IndexError, TypeError):
            self._complain(block)
            raise

    def _cut(self, records: list[bytes]) -> list[int]:
        """Cut the key at delimiters."""
        places, delimiter, last = self._places, self._delimiter, self._last
        if len(self._columns) == 1:
            return [places[record] for record in records]
        if self._indexes == (0,):
            # A record without any delimiter is cut wrongly here; COPY refuses it for its missing columns.
            return [places[record[: record.find(delimiter)]] for record in records]
        stop = last + 1
        if len(self._indexes) == 1:
            return [places[record.split(delimiter, stop)[last]] for record in records]
        pick = itemgetter(*self._indexes)
        return [places[pick(record.split(delimiter, stop))] for record in records]

    def _complain(self, block: Block) -> None:
        """Raise `BadRow` for the first record at fault."""
        for index, record in enumerate(block.records):
            reason = self._fault(record)
            if reason is not None:
                raise BadRow(self._source, block.line(index), reason)

    def _fault(self, record: bytes) -> str | None:
        raws = self._fields.split(record)
        if len(raws) < len(self._columns):
            return f"missing data for column {self._columns[len(raws)]}" if record else "empty line"
        if len(raws) > len(self._columns):
            return f"extra data after the last column, {self._columns[-1]}"
        try:
            self._places[itemgetter(*self._indexes)(raws)]
        except KeyFault as fault:
            return str(fault)
        return None
