"""Values on their way out and in: JSON that loses nothing, cells of a table, sizes and times, ``name=value``."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Set
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

_WORDS: dict[str, object] = {"true": True, "false": False, "null": None}
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]+)?")


def to_json(document: object) -> str:
    """Return JSON. Numerics become strings, so that no digit is lost, as do dates and whatever JSON does not have."""
    return json.dumps(_plain(document), ensure_ascii=False, indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case Set():
            return sorted(_plain(item) for item in value)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case _:
            return cell(value)


def cell(value: Any) -> str:
    """Return a value as one cell of a table or a CSV file, much as psql would. NULL is empty."""
    match value:
        case None:
            return ""
        case bool():
            return "t" if value else "f"
        case datetime():
            return value.isoformat(sep=" ")
        case date() | time():
            return value.isoformat()
        case bytes() | bytearray() | memoryview():
            return "\\x" + bytes(value).hex()
        case dict() | list():
            return json.dumps(_plain(value), ensure_ascii=False)
        case Decimal():
            return format(value, "f") if value.is_finite() else str(value)
        case _:
            return str(value)


def parse_value(text: str) -> object:
    """Read a value of the command line: a number, true, false, null, or else text; '..' makes anything text.

    Digits that a number would lose, as in the postal code 01067, stay text.
    """
    if len(text) >= 2 and text[0] == text[-1] == "'":
        return text[1:-1]
    if text in _WORDS:
        return _WORDS[text]
    if not _NUMBER.fullmatch(text):
        return text
    return Decimal(text) if "." in text else int(text)


def size(count: float) -> str:
    """Return bytes for people: ``12.3 MB``."""
    from rich.filesize import decimal

    return decimal(int(count))


def duration(seconds: float) -> str:
    """Return a time for people: ``42 µs``, ``4.2 ms``, ``37 ms``, ``1.8 s``, ``3:07 min``."""
    if seconds < 0.001:
        return f"{seconds * 1_000_000:.0f} µs"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"
