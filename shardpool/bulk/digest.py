"""Digests of tables, equal if and (but for a chance of 1 in 2**64) only if the rows are.

A row's hash is made by the server: of values as they are where PostgreSQL's hash depends on every bit, of their binary
form where it does not (-1 and 4294967295 have the same hash as bigints, 5 and -5 as numerics, 1.0 and 1.00), and of the
text of all others. The sum of all does not depend on their order, nor on where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardpool.bulk.keyset import READING
from shardpool.topology.names import quote
from shardpool.topology.tables import Column

#: Rows, and the sum of their hashes.
Digest = tuple[int, int]

#: Types whose hash depends on every bit of a value: texts if their collation does.
_PLAIN = {"smallint", "integer", "boolean", "date", "uuid", "bytea", "text", "character varying"}
#: Types whose binary form is another for each value, and the same on every server: what makes it.
_SEND = {
    "bigint": "int8send",
    "real": "float4send",
    "double precision": "float8send",
    "numeric": "numeric_send",
    "text": "textsend",
    "character varying": "varcharsend",
    "character": "bpcharsend",
    "time without time zone": "time_send",
    "time with time zone": "timetz_send",
    "timestamp without time zone": "timestamp_send",
    "timestamp with time zone": "timestamptz_send",
    "interval": "interval_send",
    "inet": "inet_send",
    "json": "json_send",
    "jsonb": "jsonb_send",
}


def row_hash(columns: Sequence[Column], encoding: str = "UTF8") -> str:
    """Return the SQL of the hash of a row of *columns*, generated ones aside; 64 bits. Where a server keeps texts in
    another *encoding*, their binary form is hashed, which the session has in UTF-8: that is the same hash.
    """
    hashed: list[str] = []
    others: list[str] = []
    for column in columns:
        value = f"{quote(column.name)}::{column.type}"
        if column.generated:
            continue
        if (
            column.base_type in _PLAIN
            and not column.collation
            and (encoding == "UTF8" or column.base_type not in _SEND)
        ):
            hashed.append(value)  # a database's own collation is deterministic
        elif column.base_type in _SEND:
            hashed.append(f"{_SEND[column.base_type]}({value})")
        else:
            others.append(value)
    if others:
        text = f"ROW({', '.join(others)})::text"
        hashed.append(text if encoding == "UTF8" else f"textsend({text})")
    # The hash of a record is linear in those of its values: unmixed, values swapped between rows would not be seen.
    return f"hash_record_extended(ROW(int8send(hash_record_extended(ROW({', '.join(hashed)}), 0))), 0)"


def digest_in(cursor: Any, relation: str, columns: Sequence[Column]) -> Digest:
    """Return the digest of *relation* (quoted), of these *columns*, as the cursor's snapshot has it."""
    value = row_hash(columns, cursor.connection.info.parameter_status("server_encoding"))
    cursor.execute(f"{READING} SELECT count(*), coalesce(sum({value}), 0) FROM {relation}")
    rows, total = cursor.fetchone()
    return int(rows), int(total)


def sum_of(digests: Sequence[Digest]) -> Digest:
    """Return the digest of all rows, given those of their parts."""
    return sum(rows for rows, _ in digests), sum(total for _, total in digests)
