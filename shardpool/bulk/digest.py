"""Digests of tables, equal if and (but for a chance of 1 in 2**64) only if the rows are.

A row's hash is made by the server: of the values of types that have one form for each value, and of the text of all
others. The sum of all does not depend on their order, nor on where they lie.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from shardpool.bulk.keyset import READING
from shardpool.topology.names import quote
from shardpool.topology.tables import Column

#: Rows, and the sum of their hashes.
Digest = tuple[int, int]

#: Types of which equal values have equal bytes. Others (1.0 = 1.00, 0 = -0, labels of an enum) are hashed as text.
_PLAIN = {"smallint", "integer", "bigint", "boolean", "date", "uuid", "bytea"}
_PLAIN |= {"timestamp without time zone", "timestamp with time zone"}
_SCALED = re.compile(r"numeric\(\d+,-?\d+\)")


def row_hash(columns: Sequence[Column]) -> str:
    """Return the SQL of the hash of a row of *columns*, generated ones aside; 64 bits."""
    plain: list[str] = []
    others: list[str] = []
    for column in columns:
        if not column.generated:
            (plain if _is_plain(column) else others).append(f"{quote(column.name)}::{column.type}")
    # The hash of a record is linear in those of its values: unmixed, values swapped between rows would not be seen.
    if not others:
        return f"hashint8extended(hash_record_extended(ROW({', '.join(plain)}), 0), 0)"
    seed = f"hash_record_extended(ROW({', '.join(plain)}), 0)" if plain else "0"
    return f"hashtextextended(ROW({', '.join(others)})::text, {seed})"


def _is_plain(column: Column) -> bool:
    if column.base_type in ("text", "character varying"):
        return not column.collation  # the collation of a database is deterministic
    return column.base_type in _PLAIN or _SCALED.fullmatch(column.type) is not None


def digest_in(cursor: Any, relation: str, columns: Sequence[Column]) -> Digest:
    """Return the digest of *relation* (quoted), of these *columns*, as the cursor's snapshot has it."""
    cursor.execute(f"{READING} SELECT count(*), coalesce(sum({row_hash(columns)}), 0) FROM {relation}")
    rows, total = cursor.fetchone()
    return int(rows), int(total)


def sum_of(digests: Sequence[Digest]) -> Digest:
    """Return the digest of all rows, given those of their parts."""
    return sum(rows for rows, _ in digests), sum(total for _, total in digests)
