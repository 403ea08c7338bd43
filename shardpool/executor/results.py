"""Results: rows that were fetched, as a SQLAlchemy `Result`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import lru_cache
from operator import length_hint
from typing import Any

from sqlalchemy.engine import IteratorResult, Row
from sqlalchemy.engine.result import SimpleResultMetaData


class RoutedResult(IteratorResult[Any]):
    """Rows of a routed statement, already fetched; the connection is back in its pool.

    `rowcount` is the driver's: rows returned or affected. A statement without rows gives a closed result.
    """

    def __init__(self, description: Any, rows: list[Any], rowcount: int) -> None:
        # As IteratorResult's own and its `close`, without the detour.
        self.returns_rows = description is not None
        self._metadata = self._all_columns = (
            _metadata(tuple([column[0] for column in description])) if description else _NO_COLUMNS
        )
        self.iterator: Iterator[Any] = iter(rows)
        self.raw = None
        self._source_supports_scalars = False
        self._hard_closed = self._soft_closed = description is None
        self.description = description
        self.rows = rows
        self.rowcount = rowcount

    def one(self) -> Row[Any]:
        """As `Result.one`; the only row of a result that nothing was asked of yet is given directly."""
        metadata = self._all_columns
        untouched = self._metadata is metadata and "_unique_filter_state" not in self.__dict__
        if untouched and length_hint(self.iterator) == len(self.rows) == 1:
            self._soft_close(hard=True)
            return Row(metadata, None, metadata._key_to_index, self.rows[0])
        return super().one()


class StreamedResult(IteratorResult[Any]):
    """Rows that come as they are asked for. Connections are held until the last row, or `close`.

    Use it as a context manager where not all rows may be read.
    """

    def __init__(self, description: Any, rows: Generator[Any]) -> None:
        super().__init__(_metadata(tuple([column[0] for column in description])), rows)
        self.description = description
        self._rows = rows

    def _soft_close(self, hard: bool = False, **options: Any) -> None:
        self._rows.close()
        super()._soft_close(hard=hard, **options)


@lru_cache(maxsize=512)
def _metadata(names: tuple[str, ...]) -> SimpleResultMetaData:
    return SimpleResultMetaData(names)


_NO_COLUMNS = SimpleResultMetaData(())
