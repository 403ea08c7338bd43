"""A table on its way between servers: COPY TO, through pipes, into COPY FROM.

On the way to several targets the rows are text, and `spread` puts each into the pipe where it belongs.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import IO, Any

from shardpool.moves.layout import TableLayout
from shardpool.moves.parallel import Work, together
from shardpool.moves.spread import Spread
from shardpool.topology.names import quote

PIPE_BUFFER = 1 << 16


def select_rows(schema: str, table: TableLayout) -> str:
    """Return the query for the rows as they are copied."""
    return f"SELECT {', '.join(table.insertable)} FROM ONLY {quote(schema)}.{quote(table.name)}"


class Relay:
    """Copies tables from one connection to others, within the transactions that these are in.

    *on_bytes* is told the size of each piece, in another thread; *meanwhile* is called now and then in this one.
    """

    def __init__(
        self,
        source: Any,
        targets: Sequence[Any],
        on_bytes: Callable[[int], object],
        meanwhile: Callable[[], object],
    ) -> None:
        self._source, self._targets, self._on_bytes, self._meanwhile = source, targets, on_bytes, meanwhile

    def copy(
        self, table: TableLayout, source_schema: str, target_schemas: Sequence[str], spread: Spread | None = None
    ) -> int:
        """Copy all rows of a table into those that were emptied in this transaction; return their number."""
        columns = ", ".join(table.insertable)
        into = [f"{quote(schema)}.{quote(table.name)} ({columns})" for schema in target_schemas]
        # A table that was emptied in the same transaction takes its rows frozen: they need not be written again.
        return self.transfer(select_rows(source_schema, table), into, table.binary, ", FREEZE", spread)

    def transfer(
        self, query: str, tables: Sequence[str], binary: bool, options: str = "", spread: Spread | None = None
    ) -> int:
        """Copy the rows of a query on the source into a table of each target; return their number.

        With several targets *spread* says which row goes to which; it raises `MoveError` for one of none.
        """
        layout = "binary" if binary and spread is None else "text"
        out = f"COPY ({query}) TO STDOUT (FORMAT {layout})"
        failures: list[Exception] = []
        with ExitStack() as stack:
            works, writers = [], []
            for target, table in zip(self._targets, tables, strict=True):
                reading, writing = os.pipe()
                reader = stack.enter_context(os.fdopen(reading, "rb", PIPE_BUFFER))
                writers.append(stack.enter_context(os.fdopen(writing, "wb", PIPE_BUFFER)))
                into = f"COPY {table} FROM STDIN (FORMAT {layout}{options})"
                works.append(_work(target, into, [reader], reader, failures))
            counted = _Counted(writers[0] if spread is None else spread.into(writers), self._on_bytes)
            stack.callback(counted.end)
            file = io.BufferedWriter(counted, PIPE_BUFFER)
            works.append(_work(self._source, out, writers, file, failures))
            try:
                *received, _ = together(works, self._meanwhile)
            except Exception as error:
                # What went wrong first; what that caused at the other end says less.
                raise (failures or [error])[0] from None
        return sum(received)


def _work(connection: Any, statement: str, pipes: Sequence[IO[bytes]], file: Any, failures: list[Exception]) -> Work:
    return Work(connection, lambda: _end(connection, statement, pipes, file, failures))


def _end(connection: Any, statement: str, pipes: Sequence[IO[bytes]], file: Any, failures: list[Exception]) -> int:
    """Run one end of the pipes, and close them, which ends the others."""
    try:
        with connection.cursor() as cursor:
            cursor.copy_expert(statement, file, PIPE_BUFFER)
            if isinstance(file, io.BufferedWriter):
                file.flush()
                file.raw.flush()
            return int(cursor.rowcount)
    except Exception as error:
        failures.append(error)
        raise
    finally:
        for pipe in pipes:
            with suppress(BrokenPipeError):
                pipe.close()


class _Counted(io.RawIOBase):
    """What the source's rows are written into, many at a time: a pipe, or what spreads them over several.

    Once it has ended, what a buffer still has for it is for nobody.
    """

    def __init__(self, file: Any, on_bytes: Callable[[int], object]) -> None:
        self._file, self._on_bytes, self._ended = file, on_bytes, False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._ended:
            return len(data)
        self._on_bytes(len(data))
        return int(self._file.write(data))

    def flush(self) -> None:
        if not self._ended:
            self._file.flush()

    def end(self) -> None:
        self._ended = True
