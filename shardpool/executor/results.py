"""Results: rows that were fetched, as a SQLAlchemy `Result`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData


class RoutedResult(IteratorResult[Any]):
    """Rows of a routed statement, already fetched; the connection is back in its pool.

    `rowcount` is the driver's: rows returned or affected. A statement without rows gives a closed result.
    """

    def __init__(self, description: Any, rows: list[Any], rowcount: int) -> None:
        super().__init__(_metadata(names_of(description) if description else ()), iter(rows))
        self.description = description
        self.rows = rows
        self.rowcount = rowcount
        self.returns_rows = description is not None
        if description is None:
            self.close()


@lru_cache(maxsize=512)
def _metadata(names: tuple[str, ...]) -> SimpleResultMetaData:
    return SimpleResultMetaData(names)


def names_of(description: Any) -> tuple[str, ...]:
    """Return the column names of a cursor's description."""
    return tuple([column[0] for column in description])
