"""Values as the server spells them: rows that pass through Python without being read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg2.extensions import cursor, new_type, register_type, string_types

if TYPE_CHECKING:
    from shardpool.executor.transaction import Transaction

#: Object identifiers from here on are given by each server for itself (FirstNormalObjectId).
FIRST_USER_OID = 16384
#: Those below are written in PostgreSQL's sources, and never change (FirstGenbkiObjectId).
_FIXED_OID = 10000

#: Numbers of types -> their names, filled at the first use: the same on every server.
_NAMES: dict[int, str] = {}


class _TextCursor(cursor):
    """Gives every value as the text that the server sent, None for NULL."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        known = {*string_types, *self.connection.string_types}
        register_type(new_type(tuple(known), "shardpool text", lambda value, cursor: value), self)


def open_cursor(connection: Any, texts: bool) -> Any:
    """Open a cursor; with *texts* it reads no values."""
    return connection.cursor(cursor_factory=_TextCursor) if texts else connection.cursor()


def type_names(transaction: Transaction, description: Any) -> tuple[str, ...]:
    """Return the names of the columns' types, without lengths; "" for types that are not PostgreSQL's own."""
    if not _NAMES:
        query = f"SELECT oid::int, format_type(oid, -1) FROM pg_catalog.pg_type WHERE oid < {_FIXED_OID}"
        _NAMES.update(row for row in transaction.on_shard(transaction.shards[0], query, {}, [], False).rows)
    return tuple(_NAMES.get(column.type_code, "") for column in description)
