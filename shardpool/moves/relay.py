"""A table on its way between two servers: COPY TO, through a pipe, into COPY FROM."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from shardpool.moves.layout import TableLayout
from shardpool.moves.parallel import Work, together
from shardpool.topology.names import quote

PIPE_BUFFER = 1 << 16


def select_rows(schema: str, table: TableLayout) -> str:
    """Return the query for the rows as they are copied."""
    return f"SELECT {', '.join(table.insertable)} FROM ONLY {quote(schema)}.{quote(table.name)}"


class Relay:
    """Copies tables from one connection to another, within the transactions that these are in.

    *on_bytes* is told the size of each piece, in another thread; *meanwhile* is called now and then in this one.
    """

    def __init__(
        self, source: Any, target: Any, on_bytes: Callable[[int], object], meanwhile: Callable[[], object]
    ) -> None:
        self._source, self._target, self._on_bytes, self._meanwhile = source, target, on_bytes, meanwhile

    def copy(self, table: TableLayout, source_schema: str, target_schema: str) -> int:
        """Copy all rows of a table into one that was emptied in this transaction; return their number."""
        columns = ", ".join(table.insertable)
        into = f"{quote(target_schema)}.{quote(table.name)} ({columns})"
        # A table that was emptied in the same transaction takes its rows frozen: they need not be written again.
        return self.transfer(select_rows(source_schema, table), into, table.binary, ", FREEZE")

    def transfer(self, query: str, table: str, binary: bool, options: str = "") -> int:
        """Copy the rows of a query on the source into a table of the target; return their number."""
        layout = "binary" if binary else "text"
        out = f"COPY ({query}) TO STDOUT (FORMAT {layout})"
        into = f"COPY {table} FROM STDIN (FORMAT {layout}{options})"
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", PIPE_BUFFER) as reader, os.fdopen(writing, "wb", PIPE_BUFFER) as writer:
            failures: list[Exception] = []
            works = [
                Work(self._source, lambda: _end(self._source, out, writer, _Counted(writer, self._on_bytes), failures)),
                Work(self._target, lambda: _end(self._target, into, reader, reader, failures)),
            ]
            try:
                _, received = together(works, self._meanwhile)
            except Exception as error:
                # What went wrong first; what that caused at the other end says less.
                raise (failures or [error])[0] from None
        return int(received)


def _end(connection: Any, statement: str, pipe: IO[bytes], file: Any, failures: list[Exception]) -> int:
    """Run one end of the pipe, and close it, which ends the other."""
    try:
        with connection.cursor() as cursor:
            cursor.copy_expert(statement, file, PIPE_BUFFER)
            return int(cursor.rowcount)
    except Exception as error:
        failures.append(error)
        raise
    finally:
        with suppress(BrokenPipeError):
            pipe.close()


class _Counted:
    """The writing end of the pipe."""

    def __init__(self, pipe: IO[bytes], on_bytes: Callable[[int], object]) -> None:
        self._write = pipe.write
        self._on_bytes = on_bytes

    def write(self, data: bytes) -> int:
        self._on_bytes(len(data))
        return self._write(data)
