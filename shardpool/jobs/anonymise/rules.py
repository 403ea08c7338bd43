"""Rules as the transform applies them: from a column of fields, and the keys of its rows, to the new column."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from shardpool.bulk.values import NULL, BadValue, to_field, to_text
from shardpool.jobs.anonymise.change import Change, date_of, decimal_of
from shardpool.jobs.anonymise.secret import Keyed

CACHE_ENTRIES = 1 << 16


class Rule(Protocol):
    """NULL stays NULL, but for the rules that say otherwise."""

    def apply(self, column: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
        """Return the new fields. *keys* are the rows' own, as they were. Raise `BadValue`."""


class PerValue:
    """Equal values become equal values; what *change* made is kept for a while, as values repeat."""

    def __init__(self, change: Change) -> None:
        self._change = change
        self._known = {NULL: NULL}

    def apply(self, column: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
        # Other threads add to it, and take another one: nothing is ever taken out.
        known = self._known
        fresh = [field for field in dict.fromkeys(column) if field not in known]
        plain = fresh if b"\\" not in b"\t".join(fresh) else [field for field in fresh if b"\\" not in field]
        if len(plain) < len(fresh):
            escaped = [field for field in fresh if b"\\" in field]
            known.update((field, to_field(self._change(to_text(field)))) for field in escaped)
        if plain:
            known.update(zip(plain, self._change.fields(plain), strict=True))
        changed = [known[field] for field in column]
        if len(known) > CACHE_ENTRIES:
            self._known = {NULL: NULL}
        return changed


@dataclass(frozen=True)
class Constant:
    """The same value for all rows, also for those that had none."""

    field: bytes

    def apply(self, column: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
        return [self.field] * len(column)


class Noise:
    """Adds a random amount, of up to *percent* of a number, *amount*, or *days*; another one for each row."""

    def __init__(
        self, keyed: Keyed, percent: Decimal | None = None, amount: Decimal | None = None, days: int | None = None
    ) -> None:
        self._keyed, self._days, self._relative = keyed, days, percent is not None
        share = percent / 100 if percent is not None else amount
        # Numbers of 63 bits stand for 0 <= share < 1.
        numerator, denominator = (share or Decimal(0)).as_integer_ratio()
        self._numerator, self._denominator = numerator, denominator << 63

    def apply(self, column: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
        numbers = self._keyed.numbers([b"%b\0%b" % pair for pair in zip(keys, column, strict=True)])
        change = self._day if self._days is not None else self._number
        return [
            field if field == NULL else change(field, number) for field, number in zip(column, numbers, strict=True)
        ]

    def _day(self, field: bytes, number: int) -> bytes:
        text = to_text(field)
        assert self._days is not None
        days = 1 + ((number >> 1) * self._days >> 63)
        moved = date_of(text).toordinal() + (days if number & 1 else -days)
        return (
            datetime.date.fromordinal(min(max(moved, 1), datetime.date.max.toordinal())).isoformat() + text[10:]
        ).encode()

    def _number(self, field: bytes, number: int) -> bytes:
        """Change a number in units of its last digit."""
        whole, _, part = field.partition(b".")
        try:
            value = int(whole + part)
        except ValueError:
            return self._number(format(decimal_of(to_text(field)), "f").encode(), number)
        scale = len(part)
        reach = abs(value) if self._relative else 10**scale
        change = (number >> 1) * self._numerator * reach // self._denominator or 1
        value += change if number & 1 else -change
        digits = b"%0*d" % (scale + 1, abs(value))
        changed = digits[:-scale] + b"." + digits[-scale:] if scale else digits
        return b"-" + changed if value < 0 else changed


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
        order = sorted(range(len(column)), key=self.keyed.digests(keys).__getitem__)
        shuffled = list(column)
        for place, index in enumerate(order):
            shuffled[index] = column[order[place - 1]]
        return shuffled
