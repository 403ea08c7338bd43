"""Rules as the transform applies them: from a column of fields, and the keys of its rows, to the new column."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from shardpool.bulk.values import NULL, BadValue, to_field, to_text
from shardpool.jobs.anonymise.change import KEPT, Change, date_of, decimal_of
from shardpool.jobs.anonymise.secret import Keyed

CACHE_ENTRIES = 1 << 16


class Rule(Protocol):
    """NULL stays NULL, but for the rules that say otherwise."""

    def apply(self, column: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
        """Return the new fields. *keys* are the rows' own, as they were. Raise `BadValue`."""


class PerValue:
    """Equal values become equal values; what *change* made is kept for a while, where values repeat."""

    def __init__(self, change: Change) -> None:
        self._change = change
        self._known = {NULL: NULL}

    def apply(self, column: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
        # Other threads add to it, and take another one: nothing is ever taken out.
        known = self._known
        fresh = [field for field in dict.fromkeys(column) if field not in known]
        plain = fresh if b"\\" not in b"\t".join(fresh) else [field for field in fresh if b"\\" not in field]
        if len(plain) == len(column):
            return self._change.fields(plain)
        if fresh and max(map(len, fresh)) > KEPT:
            known = dict(known)  # Long ones are not kept beyond this chunk.
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
        self._numerator, self._denominator = (share or Decimal(0)).as_integer_ratio()

    def apply(self, column: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
        numbers = self._keyed.numbers(map(b"\0".join, zip(keys, column, strict=True)))
        if self._days is not None:
            pairs = zip(column, numbers, strict=True)
            return [field if field == NULL else self._day(field, number) for field, number in pairs]
        return self._numbers(column, numbers)

    def _numbers(self, column: Sequence[bytes], numbers: Sequence[int]) -> list[bytes]:
        """Change numbers, those with as many digits after the point together: all, mostly."""
        scale = _scale(column[0])
        alike = rb"(?:-?\d++\.\d{%d}\t)*+" % scale if scale else rb"(?:-?\d++\t)*+"
        if re.fullmatch(alike, b"\t".join([*column, b""])):
            return self._alike(column, numbers, scale)
        if not b"".join(column).translate(None, b"-.").isdigit():
            column = [field if field == NULL else format(decimal_of(to_text(field)), "f").encode() for field in column]
        scales = list(map(_scale, column))
        changed = list(column)
        for scale in set(scales):
            its = [at for at, field in enumerate(column) if scales[at] == scale and field != NULL]
            new = self._alike([column[at] for at in its], [numbers[at] for at in its], scale) if its else []
            for at, field in zip(its, new, strict=True):
                changed[at] = field
        return changed

    def _alike(self, column: Sequence[bytes], numbers: Sequence[int], scale: int) -> list[bytes]:
        """Change numbers that all have *scale* digits after the point."""
        values = list(map(int, b"\t".join(column).replace(b".", b"").split(b"\t")))
        changed = self._changed(values, numbers, scale)
        if not scale:
            return [b"%d" % value for value in changed]
        form, unit = b"%%d.%%0%dd" % scale, 10**scale
        if min(changed) >= 0:
            return [form % divmod(value, unit) for value in changed]
        return [(form if value >= 0 else b"-" + form) % divmod(abs(value), unit) for value in changed]

    def _changed(self, values: Sequence[int], numbers: Sequence[int], scale: int) -> list[int]:
        """Add to each of *values*, in units of the last of *scale* digits, what its random number says."""
        numerator, denominator, unit = self._numerator, self._denominator, 10**scale
        if self._relative:
            reaches = [((it >> 1) * abs(value) * numerator >> 63) for it, value in zip(numbers, values, strict=True)]
        else:
            reaches = [((it >> 1) * unit * numerator >> 63) for it in numbers]
        return [
            value + (reach // denominator or 1) if number & 1 else value - (reach // denominator or 1)
            for value, reach, number in zip(values, reaches, numbers, strict=True)
        ]

    def _day(self, field: bytes, number: int) -> bytes:
        text = to_text(field)
        assert self._days is not None
        days = 1 + ((number >> 1) * self._days >> 63)
        moved = date_of(text).toordinal() + (days if number & 1 else -days)
        return (
            datetime.date.fromordinal(min(max(moved, 1), datetime.date.max.toordinal())).isoformat() + text[10:]
        ).encode()


def _scale(field: bytes) -> int:
    """Return how many digits stand after the point."""
    return len(field.partition(b".")[2])


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
