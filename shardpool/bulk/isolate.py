"""Copying rows of which some may be bad: the bad ones are found by halving, each half under a savepoint."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import psycopg2

from shardpool.bulk.chunk import Record

#: A row that was refused: its index, and why.
Refused = tuple[int, str]


#: Writes records by the cursor's connection; the given words go before its statement, in the same message.
Write = Callable[[Any, Sequence[Record], str], None]


def copy_good_rows(connection: Any, before: str, copy: str, records: Sequence[Record], limit: int) -> list[Refused]:
    """Run the statement *copy* with *records*, as `keep_good_rows` does."""

    def write(cursor: Any, some: Sequence[Record], begin: str) -> None:
        data = b"\n".join([*some, b""])
        cursor.copy_expert(begin + copy, io.BytesIO(data), size=max(len(data), 1))

    return keep_good_rows(connection, before, write, records, limit)


def keep_good_rows(connection: Any, before: str, write: Write, records: Sequence[Record], limit: int) -> list[Refused]:
    """Write *records* but for those that the server refuses, which are returned. *before*: statements to set it up.

    At most *limit* are left out; the error of one more is raised, with the attribute `row`, its index. What is wrong
    with the connection, or with all rows alike, is raised as it is.
    """
    refused: list[Refused] = []

    def attempt(first: int, last: int) -> None:
        error = _try(connection, before, write, records[first:last])
        if error is None:
            return
        if last - first > 1:
            middle = (first + last) // 2
            attempt(first, middle)
            attempt(middle, last)
        elif len(refused) < limit:
            refused.append((first, reason_of(error)))
        else:
            error.row = first  # type: ignore[attr-defined]
            raise error

    attempt(0, len(records))
    return refused


def _try(connection: Any, before: str, write: Write, records: Sequence[Record]) -> psycopg2.Error | None:
    """Write *records*; return the error if it is one of the data, with the transaction as it was before."""
    with connection.cursor() as cursor:
        try:
            write(cursor, records, f"{before} SAVEPOINT shardpool_rows; ")
            cursor.execute("RELEASE SAVEPOINT shardpool_rows")
            return None
        except psycopg2.Error as error:
            if connection.closed or not is_fault_of_data(error):
                raise
            cursor.execute("ROLLBACK TO SAVEPOINT shardpool_rows")
            return error


def is_fault_of_data(error: psycopg2.Error) -> bool:
    """Whether *error* says that a row cannot be stored: a value that is none, or a constraint."""
    return (error.pgcode or "").startswith(("22", "23"))


def reason_of(error: psycopg2.Error) -> str:
    """Return what the server says, without the row's values: they may be what must not be kept."""
    reason = (error.diag.message_primary or str(error)).splitlines()[0]
    constraint = error.diag.constraint_name
    return f"{error.pgcode}: {constraint or _without_quoted(reason)}"


def _without_quoted(text: str) -> str:
    """Values stand in double quotes in messages: ``invalid input syntax for type integer: "x"``."""
    head, quote, _ = text.partition(': "')
    return head if quote else text
