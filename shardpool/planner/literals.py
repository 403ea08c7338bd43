"""Literals as parameters: statements that differ in them alone share a plan.

psycopg2 writes the values where the literals stood, so the server gets the same words. Only such literals are taken
that stand for themselves: alone between ``=`` and the end of an assignment or condition, or as a column of VALUES in an
INSERT. Where a text could be read in another way (comments, escapes, dollar quotes), it is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType

Values = Mapping[str, object]

#: Longer texts are read anew each time.
REMEMBERED_LENGTH = 1000
#: What a parameter here is called, with a number; a statement that has such names itself is left alone.
PREFIX = "_v"

_OPAQUE = re.compile(r"--|/\*|[\\$\0]|:_v\d")
#: What each session reads at another moment is left for the planner to see.
_MOVING = re.compile(r"\b(?:now|today|tomorrow|yesterday)\b(?!\()", re.IGNORECASE)

_STRING = r"'[^']*+(?:''[^']*+)*+'"
#: No more digits than 64 bits hold, and none that Python writes as 1E-7: others are left as they are.
_NUMBER = r"-?\d{1,18}+(?:\.\d{1,6}+)?+"
_WORD = r":?[A-Za-z_]\w*+(?:\(\))?+"
_IDENTIFIER = r'(?:[A-Za-z_]\w*+|"[^"]*+")'

_ITEM = re.compile(rf"(?P<literal>{_STRING}|{_NUMBER})|{_WORD}")
_COLUMN = rf"(?:{_STRING}|{_NUMBER}|{_WORD})"
_ROW = rf"\(\s*+{_COLUMN}(?:\s*+,\s*+{_COLUMN})*+\s*+\)"
_INSERT = re.compile(
    rf"\s*+INSERT\s++INTO\s++{_IDENTIFIER}(?:\.{_IDENTIFIER})?+\s*+(?:\([\w\s,\"]*+\)\s*+)?+VALUES\s*+"
    rf"(?P<rows>{_ROW}(?:\s*+,\s*+{_ROW})*+)(?=\s*+(?:;?\s*+\Z|(?:ON|RETURNING)\b))",
    re.IGNORECASE | re.ASCII,
)
#: More than one table, or groups, are planned better with what the literals tell.
_OTHERS = re.compile(
    r"\s*+(?:UPDATE\b|DELETE\b|SELECT\b(?!.*\b(?:SELECT|JOIN|GROUP|DISTINCT|OVER|UNION|INTERSECT|EXCEPT)\b))",
    re.IGNORECASE | re.DOTALL,
)
_END = r"(?=\s*+(?:;?\s*+\Z|[,)]|(?:AND|OR|WHERE|FROM|RETURNING|ORDER|LIMIT|FOR)\b))"
_COMPARED = re.compile(rf'=\s*+(?P<literal>{_STRING}|{_NUMBER}){_END}|{_STRING}|"[^"]*+"', re.IGNORECASE | re.ASCII)


def lift(sql: str) -> tuple[str, Values]:
    """Return a statement whose literals are ``:name`` parameters, beside those that it has, and their values."""
    return _remembered(sql) if len(sql) <= REMEMBERED_LENGTH else _lift(sql)


def _lift(sql: str) -> tuple[str, Values]:
    if _OPAQUE.search(sql) or _MOVING.search(sql):
        return sql, _NONE
    insert = _INSERT.match(sql)
    if insert is not None:
        start, end = insert.span("rows")
        rows, values = _replaced(_ITEM, sql[start:end])
        return sql[:start] + rows + sql[end:], values
    return _replaced(_COMPARED, sql) if _OTHERS.match(sql) else (sql, _NONE)


_remembered = lru_cache(maxsize=2000)(_lift)
_NONE: Values = MappingProxyType({})


def _replaced(pattern: re.Pattern[str], text: str) -> tuple[str, Values]:
    values: dict[str, object] = {}

    def replace(found: re.Match[str]) -> str:
        literal = found["literal"]
        if literal is None:
            return found[0]
        name = f"{PREFIX}{len(values)}"
        values[name] = _value(literal)
        return f"{found[0][: -len(literal)]}:{name}"

    return pattern.sub(replace, text), values


def _value(literal: str) -> object:
    if literal[0] == "'":
        return literal[1:-1].replace("''", "'")
    return Decimal(literal) if "." in literal else int(literal)
