"""Comparing the copy with the source, row by row, before anything is switched.

Of each table the rows are counted, and the hashes of their texts are summed: equal sums whatever the order, and a row
that is missing, doubled or different changes them. Row counts alone prove nothing. Where all types are PostgreSQL's own
and name nothing of the server, the columns themselves are hashed, in a sixth of the time: as they are where their hash
depends on every bit, else in their binary form (`layout`). The hash of such a row is linear in those of its columns, so
it is hashed once more: else two rows that have changed a column would have the same sum.

Large tables are summed in pieces, by the places of their rows, with rests in between (`pace`): so the connection must
see the same rows all the while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shardpool.errors import DigestMismatch
from shardpool.moves.layout import TableLayout, look_into, read_layout
from shardpool.moves.move import Move
from shardpool.moves.parallel import Work, keep_alive, together
from shardpool.moves.record import MoveRecord
from shardpool.topology.names import literal, quote

#: Bytes of a page, and how many pages are summed before a rest.
PAGE = 8192
PIECE = 512
#: Table -> (rows, sum of hashes).
Digests = dict[str, tuple[int, int]]


def verify(move: Move) -> None:
    """Raise `DigestMismatch` unless both sides have the same rows, generated columns included."""
    record, source, target = move.record, move.servers.source, move.servers.target
    # Writers wait: there are no rests.
    tables = read_layout(source, record.schema)
    waiting: list[Any] = []

    def read(connection: Any, schema: str) -> Digests:
        found = read_digests(connection, record.keyspace, schema, tables)
        waiting.append(connection)
        return found

    def say_something() -> None:
        """For the side that is done first: its server would end it, and the locks with it."""
        for connection in list(waiting):
            keep_alive(connection)

    here, there = together(
        [
            Work(source, lambda: read(source, record.schema)),
            Work(target, lambda: read(target, record.incoming)),
        ],
        say_something,
    )
    target.commit()
    compare(record, here, there)


def compare(record: MoveRecord, here: Digests, there: Digests) -> None:
    """Raise `DigestMismatch` unless the digests of source and target are the same."""
    differing = [
        f"{name}: {here[name][0]:,} rows on {record.source}, {there[name][0]:,} on {record.target}"
        + (", but not the same ones" if here[name][0] == there[name][0] else "")
        for name in sorted(here)
        if here[name] != there[name]
    ]
    if differing:
        raise DigestMismatch(f"{record}: the copy differs; nothing was moved. {'; '.join(differing)}")


def read_digests(
    connection: Any,
    keyspace: str,
    schema: str,
    tables: Sequence[TableLayout],
    rest: Callable[[], object] = lambda: None,
) -> Digests:
    """Return the digests of *tables* in *schema*, as the connection's transaction sees them; *rest* between pieces."""
    look_into(connection, keyspace, schema)
    found: Digests = {}
    with connection.cursor() as cursor:
        for table in tables:
            rows = value = 0
            for condition in pieces(table):
                cursor.execute(digest(schema, table, condition))
                _, more_rows, more = cursor.fetchone()
                rows, value = rows + int(more_rows), value + int(more)
                rest()
            found[table.name] = rows, value
    return found


def pieces(table: TableLayout) -> Iterator[str]:
    """Yield conditions that each row of a table satisfies one of; the last takes what the table has grown by."""
    last = table.heap // PAGE // PIECE
    for number in range(last + 1):
        bounds = [f"ctid >= '({number * PIECE},0)'"] if number else []
        bounds += [f"ctid < '({(number + 1) * PIECE},0)'"] if number < last else []
        yield f" WHERE {' AND '.join(bounds)}" if bounds else ""


def digest(schema: str, table: TableLayout, condition: str = "") -> str:
    """Return the query for name, number of rows and digest of a table."""
    columns, value = table.columns, "hashtextextended((r.*)::text, 0)"
    if table.hashed:
        columns, value = table.hashed, "hash_array_extended(ARRAY[int8send(hash_record_extended(r.*, 0))], 0)"
    rows = f"SELECT {', '.join(columns)} FROM ONLY {quote(schema)}.{quote(table.name)}{condition}"
    return f"SELECT {literal(table.name)}, count(*), coalesce(sum({value}), 0) FROM ({rows}) AS r"
