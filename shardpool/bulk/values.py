"""Single values: from a field of COPY's text format to text, and back."""

from __future__ import annotations

import re

from shardpool.bulk.fields import Fields
from shardpool.bulk.layout import COPY_TEXT

NULL = rb"\N"

_decode = Fields(COPY_TEXT).decode
_SPECIAL = re.compile(r"[\\\b\f\n\r\t\v]")
_ESCAPES = {"\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}


class BadValue(Exception):
    """A value that cannot be changed as it should be; the text says why, without the value."""


def to_text(field: bytes) -> str:
    """Return the value of a field that is not NULL."""
    return (_decode(field) or b"").decode() if b"\\" in field else field.decode()


def to_field(value: str) -> bytes:
    """Return *value* as a field."""
    if _SPECIAL.search(value):
        value = _SPECIAL.sub(lambda match: _ESCAPES[match[0]], value)
    return value.encode()
