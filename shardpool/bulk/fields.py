r"""From records to fields, exactly as COPY reads them.

A raw field is what stands between two delimiters, quotes and escapes included. It is cut by the delimiter's position
where every delimiter byte is a delimiter, and by a pattern elsewhere; only what is looked at is decoded.
"""

from __future__ import annotations

import re

from shardpool.bulk.layout import QUOTE, Layout

_QUOTED = re.compile(rb'"((?:[^"]|"")*+)"')
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(?s:(.)))")
_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


class Ambiguous(Exception):
    """A field was cut inside quotes or after an escape: this record needs the pattern."""


class Fields:
    """Reads the fields of records of one layout."""

    def __init__(self, layout: Layout) -> None:
        self._csv = layout.format == "csv"
        self.null = layout.null
        delimiter = re.escape(layout.delimiter)
        if self._csv:
            self._field = rb'[^"%b]*+(?:"[^"]*+"[^"%b]*+)*+' % (delimiter, delimiter)
        else:
            self._field = rb"[^\\%b]*+(?:\\(?s:.)[^\\%b]*+)*+" % (delimiter, delimiter)
        self._delimiter = delimiter
        self._one = re.compile(self._field)

    def split(self, record: bytes) -> list[bytes]:
        """Return all raw fields of a complete record."""
        fields, position = [], 0
        while match := self._one.match(record, position):
            fields.append(match[0])
            position = match.end() + 1
            if position > len(record):
                break
        return fields

    def pattern(self, indexes: tuple[int, ...]) -> re.Pattern[bytes]:
        """Return a pattern that matches a record which has the fields *indexes*: they are its groups 1, 2, ..."""
        parts = [b"(" + self._field + b")" if index in indexes else self._field for index in range(max(indexes) + 1)]
        return re.compile(self._delimiter.join(parts))

    def decode(self, raw: bytes) -> bytes | None:
        """Return the value of a raw field; None for NULL. Raise `Ambiguous` if *raw* cannot be a whole field."""
        if self._csv:
            if QUOTE in raw:
                if raw.count(QUOTE) % 2:
                    raise Ambiguous
                return _QUOTED.sub(lambda match: match[1].replace(b'""', QUOTE), raw)
            return None if raw == self.null else raw
        if raw == self.null:
            return None
        return _unescape(raw) if b"\\" in raw else raw


def _unescape(raw: bytes) -> bytes:
    if (len(raw) - len(raw.rstrip(b"\\"))) % 2:
        raise Ambiguous
    return _ESCAPE.sub(_escaped, raw)


def _escaped(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, letter = match.groups()
    if octal is not None:
        return bytes([int(octal, 8) & 0xFF])
    if hexadecimal is not None:
        return bytes([int(hexadecimal, 16)])
    return _LETTERS.get(letter, letter)
