"""Cutting a table by ranges of its key: bounds that hold wherever its rows lie, as long as keys are not updated.

The place of a row on disk (ctid) would be faster to cut by, but changes when its partition moves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from shardpool.bulk.chunk import Chunk
from shardpool.errors import JobRefused
from shardpool.topology.names import quote
from shardpool.topology.tables import Table

#: Before what reads rows: those that a policy hides from the role are an error then, and not left out; and a snapshot
#: lasts while its rows are written, or compared, elsewhere.
READING = "SET LOCAL row_security = off; SET LOCAL idle_in_transaction_session_timeout = 0;"
#: From so many bytes on, one page of so many is read to cut a table.
LARGE, SAMPLED = 64 << 20, 10
_NAME = re.compile(r'"(?:[^"]|"")*"')
#: Without a length, as columns of queries have it, these names mean one character, or one bit.
_ANY_LENGTH = {"character": "bpchar", "bit": '"bit"'}
#: Types whose order depends on a collation.
_COLLATED = {"text", "character varying", "character"}


class Keyset:
    """The key by which *table* is cut: its primary key, else its partition key; none, and the table is one chunk.

    Texts are compared byte by byte unless *same_collation*: shards may sort words differently, and partitions move.
    """

    def __init__(self, table: Table, *, same_collation: bool) -> None:
        names = table.primary_key or table.key
        self.columns = [column for column in table.columns if column.name in names]
        self.columns.sort(key=lambda column: names.index(column.name))
        self._terms = [
            quote(column.name) + (' COLLATE "C"' if column.base_type in _COLLATED and not same_collation else "")
            for column in self.columns
        ]

    def cutting_query(self, relation: str, chunk_rows: int) -> str:
        """Return a query for every nth key. Each key is in text."""
        names = ", ".join(f"{quote(column.name)}::text" for column in self.columns)
        keys, order = ", ".join(quote(column.name) for column in self.columns), ", ".join(self._terms)
        return (
            f"SELECT {names} FROM (SELECT {keys}, row_number() OVER (ORDER BY {order}) AS shardpool_row "
            f"FROM {relation}) keys WHERE shardpool_row % {chunk_rows:d} = 0 ORDER BY shardpool_row"
        )

    def nulls_query(self, relation: str) -> str | None:
        """Return a query for whether a key is NULL somewhere, which no range would take; None if that cannot be."""
        nullable = [quote(column.name) for column in self.columns if not column.not_null]
        if not nullable:
            return None
        return f"SELECT EXISTS (SELECT FROM {relation} WHERE {' OR '.join(f'{name} IS NULL' for name in nullable)})"

    def bounds(self, cursor: Any, relation: str, chunk_rows: int) -> list[tuple[str, ...]]:
        """Return every nth key of *relation*, of a large table about every nth. Raise `JobRefused` if one is NULL."""
        nulls = self.nulls_query(relation)
        if nulls is not None:
            cursor.execute(nulls)
            if cursor.fetchone()[0]:
                names = ", ".join(column.name for column in self.columns)
                raise JobRefused(f"the key ({names}) is NULL in some rows, so they would be in no chunk: take another")
        if self._is_large(cursor, relation):
            # Rows that lie together have keys that lie together: a tenth of the pages tells where to cut.
            relation, chunk_rows = (
                f"{relation} TABLESAMPLE SYSTEM ({100 // SAMPLED}) REPEATABLE (0)",
                chunk_rows // SAMPLED,
            )
        cursor.execute(self.cutting_query(relation, max(chunk_rows, 1)))
        found = [tuple(row) for row in cursor.fetchall()]
        cursor.execute(f"SELECT count(*) FROM {relation}")
        # A last chunk shorter than half is added to the one before.
        return found[:-1] if found and cursor.fetchone()[0] - len(found) * chunk_rows < chunk_rows // 2 else found

    def _is_large(self, cursor: Any, relation: str) -> bool:
        """Whether *relation* is a table that is better sampled than read."""
        if not _NAME.fullmatch(relation):
            return False  # a query
        size = "SELECT pg_relation_size(oid) FROM pg_class WHERE oid = to_regclass(%s) AND relkind = 'r'"
        cursor.execute(size, (relation,))
        found = cursor.fetchone()
        return found is not None and found[0] >= LARGE

    def condition(self, cursor: Any, chunk: Chunk) -> str:
        """Return the condition that selects the rows of *chunk*."""
        parts = [
            self._compare(cursor, sign, bound)
            for sign, bound in ((">", chunk.after), ("<=", chunk.upto))
            if bound is not None
        ]
        return " AND ".join(parts) or "true"

    def _compare(self, cursor: Any, sign: str, bound: Sequence[str]) -> str:
        values = ", ".join(
            f"{cursor.mogrify('%s', (value,)).decode()}::{_ANY_LENGTH.get(column.type, column.type)}"
            for value, column in zip(bound, self.columns, strict=True)
        )
        return f"({', '.join(self._terms)}) {sign} ({values})"
