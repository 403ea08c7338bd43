"""Rules as the transform applies them: from a column of fields, and the keys of its rows, to the new column."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from shardpool.jobs.anonymise.change import date_of, decimal_of
from shardpool.jobs.anonymise.secret import Keyed
from shardpool.jobs.anonymise.values import NULL, BadValue, to_field, to_text

CACHE_ENTRIES = 1 << 16


class Rule(Protocol):
    """NULL stays NULL, but for the rules that say otherwise."""

    def apply(self, column: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
        """Return the new fields. *keys* are the rows' own, as they were. Raise `BadValue`."""


class PerValue(dict[bytes, bytes]):
    """Equal values become equal values. A bounded cache, as values repeat."""

    def __init__(self, change: Callable[[str], str]) -> None:
        super().__init__()
        self._change = change

    def apply(self, column: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
        return [self[field] for field in column]

    def __missing__(self, field: bytes) -> bytes:
        if field == NULL:
            return NULL
        changed = to_field(self._change(to_text(field)))
        if len(self) >= CACHE_ENTRIES:
            self.clear()
        self[field] = changed
        return changed


@dataclass(frozen=True)
class Constant:
    """The same value for all rows, also for those that had none."""

    field: bytes

    def apply(self, column: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
        return [self.field] * len(column)


@dataclass(frozen=True)
class Noise:
    """Adds a random amount, of up to *percent* of a number, *amount*, or *days*; another one for each row."""

    keyed: Keyed
    percent: Decimal | None = None
    amount: Decimal | None = None
    days: int | None = None

    def apply(self, column: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
        return [
            field if field == NULL else to_field(self._changed(to_text(field), key))
            for field, key in zip(column, keys, strict=True)
        ]

    def _changed(self, text: str, key: bytes) -> str:
        number = self.keyed.number(key + b"\0" + text.encode())
        share = Decimal(number >> 1) / Decimal(1 << 63)  # 0 <= share < 1
        sign = 1 if number & 1 else -1
        if self.days is not None:
            moved = date_of(text).toordinal() + sign * (1 + int(share * self.days))
            return datetime.date.fromordinal(min(max(moved, 1), datetime.date.max.toordinal())).isoformat() + text[10:]
        value = decimal_of(text)
        reach = self.amount if self.amount is not None else abs(value) * (self.percent or Decimal(0)) / 100
        unit = Decimal(1).scaleb(min(int(value.as_tuple().exponent), 0))
        change = (share * reach).quantize(unit) or unit
        return format(value + sign * change, "f")


@dataclass(frozen=True)
class Shuffle:
    """Gives each row the value of another row of its chunk. A row that is alone becomes NULL, or is refused."""

    keyed: Keyed
    nullable: bool

    def apply(self, column: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
        if len(column) == 1:
            if not self.nullable:
                raise BadValue("there is no other row to take a value from")
            return [NULL]
        order = sorted(range(len(column)), key=lambda index: self.keyed.digest(keys[index]))
        shuffled = list(column)
        for place, index in enumerate(order):
            shuffled[index] = column[order[place - 1]]
        return shuffled
