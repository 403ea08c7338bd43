"""Copying the rows: COPY TO on the source, through a pipe, into COPY FROM on the target."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from shardpool.bulk import faults
from shardpool.moves.layout import TableLayout, look_into, qualified, read_layout
from shardpool.moves.move import Move
from shardpool.moves.parallel import Work, together
from shardpool.topology.names import quote

PIPE_BUFFER = 1 << 16


def copy(move: Move) -> None:
    """Copy all tables. What was there from an earlier try is replaced."""
    record, source, target = move.record, move.servers.source, move.servers.target
    tables = read_layout(source, record.schema)
    move.meter.total_bytes = sum(table.heap for table in tables)
    look_into(target, record.keyspace, record.incoming)
    if tables:
        with target.cursor() as cursor:
            # Rows copied into a table that is emptied in the same transaction can be frozen at once.
            cursor.execute(f"TRUNCATE {qualified(record.incoming, tables)}")
    for table in tables:
        move.meter.rows += _Relay(move, table).run()
        faults.fault_point("move:copy:inside")
    target.commit()


def select_rows(schema: str, table: TableLayout) -> str:
    return f"SELECT {', '.join(table.insertable)} FROM ONLY {quote(schema)}.{quote(table.name)}"


class _Relay:
    """One table on its way. `_failure` is what went wrong first: what it causes at the other end says less."""

    def __init__(self, move: Move, table: TableLayout) -> None:
        record = move.record
        layout = "binary" if table.binary else "text"
        columns = ", ".join(table.insertable)
        self._out = f"COPY ({select_rows(record.schema, table)}) TO STDOUT (FORMAT {layout})"
        self._in = f"COPY {quote(record.incoming)}.{quote(table.name)} ({columns}) FROM STDIN (FORMAT {layout}, FREEZE)"
        self._source, self._target, self._meter = move.servers.source, move.servers.target, move.meter
        self._failure: Exception | None = None

    def run(self) -> int:
        """Copy, and return the number of rows."""
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", PIPE_BUFFER) as reader, os.fdopen(writing, "wb", PIPE_BUFFER) as writer:
            works = [
                Work(self._source, lambda: self._end(self._source, self._out, writer, _Counter(self, writer))),
                Work(self._target, lambda: self._end(self._target, self._in, reader, reader)),
            ]
            try:
                _, received = together(works, meanwhile=self._meter.tick)
            except Exception as error:
                raise self._failure or error from None
        return int(received)

    def _end(self, connection: Any, statement: str, pipe: IO[bytes], file: Any) -> int:
        try:
            with connection.cursor() as cursor:
                cursor.copy_expert(statement, file, PIPE_BUFFER)
                return int(cursor.rowcount)
        except Exception as error:
            self._failure = self._failure or error
            raise
        finally:
            with suppress(BrokenPipeError):
                pipe.close()

    def count(self, size: int) -> None:
        self._meter.bytes += size


class _Counter:
    """The writing end of the pipe."""

    def __init__(self, relay: _Relay, pipe: IO[bytes]) -> None:
        self._write: Callable[[bytes], int] = pipe.write
        self._count = relay.count

    def write(self, data: bytes) -> int:
        self._count(len(data))
        return self._write(data)
