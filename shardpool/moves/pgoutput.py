"""Reading keys out of what PostgreSQL's output plugin `pgoutput` writes: which rows were touched.

The messages are those of https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html, version 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from shardpool.errors import MoveError

#: What a column of a row is: its text, None for NULL, or UNCHANGED for a long value that was not sent.
UNCHANGED = object()
Values = list[object]
Key = tuple[str, ...]


@dataclass(frozen=True)
class Relation:
    """A table as the stream describes it. *places* are those of the key's columns among those that are sent."""

    name: str
    places: tuple[int, ...]


class KeyReader:
    """Reads one stream. *keys* are the columns that tell the rows of each table of *schema*.

    Raise `MoveError` for what a move cannot follow: a TRUNCATE, or a row whose key is not told.
    """

    def __init__(self, schema: str, keys: Mapping[str, tuple[str, ...]]) -> None:
        self._schema, self._keys = schema, keys
        self._relations: dict[int, Relation] = {}

    def read(self, message: bytes) -> Iterator[tuple[str, Key]]:
        """Yield (table, key) for each row that the message tells of; none for one that tells of no row."""
        reader = _Reader(message)
        kind = reader.char()
        if kind == "R":
            self._describe(reader)
        elif kind in "IUD":
            relation = self._relations[reader.number()]
            # What a key was tells where it left; an unchanged one is told only as what it is.
            before = reader.row() if kind != "I" and reader.peek() in "KO" and reader.char() else None
            after = reader.row() if kind != "D" and reader.char() else None
            old = None if before is None else self._key(relation, before, None)
            new = None if after is None else self._key(relation, after, old)
            yield from ((relation.name, key) for key in dict.fromkeys((old, new)) if key is not None)
        elif kind == "T":
            raise MoveError(
                f"a table of {self._schema} was truncated while it was moved, which cannot be followed; nothing was "
                f"moved: move it again, or DELETE the rows instead"
            )

    def _describe(self, reader: _Reader) -> None:
        number, schema, name = reader.number(), reader.text(), reader.text()
        identity, columns = reader.char(), [reader.column() for _ in range(reader.short())]
        names = [column for column, _ in columns]
        told = {column for column, identifies in columns if identifies}
        expected = self._keys.get(name) if schema == self._schema else None
        if expected is None or not set(expected) <= told | (set(names) if identity == "f" else set()):
            raise MoveError(
                f"the changes of table {schema}.{name} do not tell its rows by {', '.join(expected or ('?',))}: its "
                f"REPLICA IDENTITY or its primary key was changed; nothing was moved"
            )
        self._relations[number] = Relation(name, tuple(names.index(column) for column in expected))

    def _key(self, relation: Relation, row: Values, old: Key | None) -> Key:
        """Return the key of a row; a part of it that was not sent again is what it was."""
        key = []
        for at, place in enumerate(relation.places):
            value = row[place]
            if value is UNCHANGED and old is not None:
                value = old[at]
            if not isinstance(value, str):
                raise MoveError(f"a change of table {self._schema}.{relation.name} does not tell the row's key")
            key.append(value)
        return tuple(key)


class _Reader:
    """The fields of one message, one after another."""

    def __init__(self, message: bytes) -> None:
        self._message, self._at = message, 0

    def peek(self) -> str:
        return chr(self._message[self._at])

    def char(self) -> str:
        self._at += 1
        return chr(self._message[self._at - 1])

    def short(self) -> int:
        self._at += 2
        return int(struct.unpack_from(">H", self._message, self._at - 2)[0])

    def number(self) -> int:
        self._at += 4
        return int(struct.unpack_from(">I", self._message, self._at - 4)[0])

    def text(self) -> str:
        end = self._message.index(0, self._at)
        found, self._at = self._message[self._at : end].decode(), end + 1
        return found

    def column(self) -> tuple[str, bool]:
        """A column's name, and whether it is of the replica identity; its type is not needed."""
        identifies, name = self.char() == "\1", self.text()
        self._at += 8
        return name, identifies

    def row(self) -> Values:
        return [self._value() for _ in range(self.short())]

    def _value(self) -> object:
        kind = self.char()
        if kind == "n":
            return None
        if kind == "u":
            return UNCHANGED
        size = self.number()
        self._at += size
        return self._message[self._at - size : self._at].decode()


def transaction_end(message: bytes) -> int:
    """Return where the transaction of a Commit message ends, as a position in the log."""
    return int(struct.unpack_from(">Q", message, 10)[0])


def position(lsn: str) -> int:
    """Return a position in the log as a number: '16/B374D848' is what PostgreSQL prints."""
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)
