"""What generated statements can select from: the tables and views of `dataset`, and what their columns hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.oracle import dataset

_KINDS = {
    "bigint": "int",
    "integer": "int",
    "smallint": "small",
    "numeric": "number",
    "double precision": "float",
    "real": "float",
    "text": "text",
    "varchar": "text",
    "char": "char",
    "boolean": "bool",
    "date": "date",
    "timestamptz": "moment",
    "timestamp": "stamp",
    "mood": "mood",
    "uuid": "uuid",
    "jsonb": "json",
    "integer[]": "array",
    "text[]": "texts",
    "int4range": "range",
    "interval": "interval",
    "time": "time",
    "bytea": "bytes",
    "positive": "int",
}
#: Columns whose equal values may print differently are never shown as they are.
UNSCALED = frozenset({"amount", "rate"})
VARIANCES = ("var_pop", "var_samp", "variance", "stddev_pop", "stddev_samp", "stddev")
SIZES = {"orders": 240, "items": 307, "customers": 40, "visits": 40, "country": 6, "currency": 5}


@dataclass(frozen=True)
class Col:
    """A column that can be referred to as `ref`; `key` if it decides the partition of its table."""

    ref: str
    kind: str
    name: str = ""
    key: bool = False


def _tables() -> dict[str, list[tuple[str, str]]]:
    """Table -> (column, kind), read from the DDL."""
    found: dict[str, list[tuple[str, str]]] = {}
    for statement in dataset.DDL.split(";"):
        statement = statement.strip()
        if not statement.startswith("create table"):
            continue
        head, _, body = statement.partition("(")
        name = head.removeprefix("create table ").strip().strip('"')
        for part in _split(body.rstrip().removesuffix(")")):
            column, _, rest = part.strip().partition(" ") if not part.strip().startswith('"') else _quoted(part.strip())
            kind = next((k for t, k in sorted(_KINDS.items(), key=lambda kv: -len(kv[0])) if rest.startswith(t)), None)
            rare = "multirange" in rest or (rest.endswith("[]") and kind not in ("array", "texts"))
            if kind is not None and not rare and column not in ("primary", "foreign", "moods"):
                found.setdefault(name, []).append((column, kind))
    return found


def _quoted(part: str) -> tuple[str, str, str]:
    end = part.index('" ') + 1
    return part[:end], " ", part[end + 1 :]


def _split(body: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(body):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(body[start:place])
            start = place + 1
    return [*parts, body[start:]]


TABLES = _tables()
WORDS = ("apple", "Apple", "zebra", "", "a%b", "it's", "ß", "42", "user3", "north", "/a", "x")


def key_kind(table: str) -> str:
    keys = keys_of(table)
    return next((kind for column, kind in TABLES[table] if keys and column == keys[0]), "")


def keys_of(table: str) -> tuple[str, ...]:
    kind = dataset.TABLES[table]
    names = getattr(kind, "columns", ())
    return tuple(f'"{name}"' if " " in name else name for name in names)


#: Views that do more than to read a table: their columns.
VIEWS = {
    "large": [("id", "int"), ("customer_id", "int"), ("total", "number"), ("code", "text"), ("placed", "date")],
    "lines": [("customer", "int"), ("number", "int"), ("line", "int"), ("product", "text"), ("value", "number")],
    "by_code": [("code", "text"), ("n", "int"), ("total", "number"), ("mean", "number")],
    "by_customer": [("customer_id", "int"), ("n", "int"), ("top", "number")],
    "kinds": [("code", "text"), ("status", "mood")],
    "ranked": [("customer_id", "int"), ("id", "int"), ("place", "int")],
    "ranked_over_all": [("customer_id", "int"), ("id", "int"), ("place", "int")],
    "everybody": [("customer_id", "int"), ("name", "text"), ("kind", "text")],
    "words": [("word", "text")],
    "rates": [("code", "text"), ("name", "text"), ("iso", "char")],
    "best": [("customer_id", "int"), ("id", "int")],
    "named": [("customer_id", "int"), ("country", "text")],
    "seven": [("id", "int"), ("total", "number")],
    "bosses": [("login", "text"), ("boss", "text"), ("depth", "int")],
    "oldest": [("id", "int"), ("m", "mood"), ("n", "int")],
}


@dataclass
class Scope:
    """The columns that an expression can refer to."""

    columns: list[Col] = field(default_factory=list)
    outer: list[Col] = field(default_factory=list)
    #: Columns that an outer join may fill with NULLs.
    supplied: list[Col] = field(default_factory=list)
    rows: int = 1
