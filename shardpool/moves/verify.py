"""Comparing the copy with the source, row by row, before anything is switched.

Of each table the rows are counted, and the hashes of their texts are summed: equal sums whatever the order, and a row
that is missing, doubled or different changes them. Row counts alone prove nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardpool.errors import DigestMismatch
from shardpool.moves.layout import TableLayout, look_into, read_layout
from shardpool.moves.move import Move
from shardpool.moves.parallel import Work, together
from shardpool.moves.record import MoveRecord
from shardpool.topology.names import literal, quote

#: Table -> (rows, sum of hashes).
Digests = dict[str, tuple[int, int]]


def verify(move: Move) -> None:
    """Raise `DigestMismatch` unless both sides have the same rows, generated columns included."""
    record, source, target = move.record, move.servers.source, move.servers.target
    tables = read_layout(source, record.schema)
    here, there = together(
        [
            Work(source, lambda: read_digests(source, record.keyspace, record.schema, tables)),
            Work(target, lambda: read_digests(target, record.keyspace, record.incoming, tables)),
        ]
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


def read_digests(connection: Any, keyspace: str, schema: str, tables: Sequence[TableLayout]) -> Digests:
    """Return the digests of *tables* in *schema*."""
    if not tables:
        return {}
    look_into(connection, keyspace, schema)
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(digest(schema, table) for table in tables))
        return {name: (int(rows), int(digest)) for name, rows, digest in cursor.fetchall()}


def digest(schema: str, table: TableLayout, condition: str = "") -> str:
    """Return the query for name, number of rows and digest of a table."""
    rows = f"SELECT {', '.join(table.columns)} FROM ONLY {quote(schema)}.{quote(table.name)}{condition}"
    return (
        f"SELECT {literal(table.name)}, count(*), coalesce(sum(hashtextextended((r.*)::text, 0)::numeric), 0) "
        f"FROM ({rows}) AS r"
    )
