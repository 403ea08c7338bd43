"""Rules that change a value by itself: masks, generalisation, scrubbed texts, fakes."""

from __future__ import annotations

import datetime
import re
import string
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from functools import lru_cache
from operator import eq

from shardpool.bulk.values import BadValue, to_field
from shardpool.errors import JobRefused
from shardpool.jobs.anonymise.secret import Keyed

_NO_DATE = "not a date of the years 1 to 9999"
#: How many values of a kind a fake is chosen from.
FAKES = 4096
KINDS = ("name", "first_name", "last_name", "company", "job", "city", "street_address", "postcode", "phone_number")

#: An e-mail address: characters of the one kind, and then this.
_MAILBOX = string.ascii_letters + string.digits + "._%+'-"
_AT_DOMAIN = re.compile(r"@[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)++")
#: Seven digits or more, with what people put between them; not a date.
PHONE = re.compile(r"(?<![\w.])(?!\d{4}-\d\d-\d\d(?!\d))(?:\+|\(|00)?\d(?:[ ()./-]{0,2}\d){6,}(?!\w)")


def addresses(text: str) -> Iterator[tuple[int, int]]:
    """Yield where e-mail addresses begin and end. (A pattern would read a long word once for each of its letters.)"""
    low = 0
    while (at := text.find("@", low)) >= 0:
        begin = low + len(text[low:at].rstrip(_MAILBOX))
        domain = _AT_DOMAIN.match(text, at)
        low = at + 1
        if domain is not None and begin < at:
            low = domain.end()
            yield begin, low


class Change(ABC):
    """Makes another value of a value, always the same one."""

    @abstractmethod
    def __call__(self, text: str) -> str: ...

    def fields(self, plain: Sequence[bytes]) -> list[bytes]:
        """The same for many fields at once, none of which is NULL or has anything escaped."""
        return [to_field(self(field.decode())) for field in plain]


@dataclass(frozen=True)
class Mask(Change):
    """Letters become letters, digits digits, all else stays; *keep_first* and *keep_last* characters too."""

    keyed: Keyed
    keep_first: int = 0
    keep_last: int = 0
    sign: str | None = None

    def fields(self, plain: Sequence[bytes]) -> list[bytes]:
        joined = b"\t".join(plain)
        if self.keep_first or self.keep_last or self.sign or not joined.isascii() or max(map(len, plain)) > _DIGEST:
            return super().fields(plain)
        digests = self.keyed.digests(plain, b"0,0,")
        random = b"\t".join([digest[: len(field)] for digest, field in zip(digests, plain, strict=True)])
        masked = _blend(joined, random).split(b"\t")
        if any(map(eq, masked, plain)):
            pairs = zip(masked, plain, strict=True)
            return [self(old.decode()).encode() if new == old else new for new, old in pairs]
        return masked

    def __call__(self, text: str) -> str:
        if not any(map(str.isalnum, text)):
            return text
        first, last = self.keep_first, max(len(text) - self.keep_last, 0)
        if first >= last:  # A short value would be shown whole.
            first, last = 0, len(text)
        for attempt in range(64):
            masked = text[:first] + self._mask(text[first:last], text, attempt) + text[last:]
            if masked != text:
                return masked
        return masked

    def _mask(self, part: str, text: str, attempt: int) -> str:
        if self.sign is not None:
            return "".join(self.sign if it.isalnum() else it for it in part)
        data = text.encode()
        if len(data) > _LONG:  # It would be read anew for each of its blocks.
            data = self.keyed.digest(data)
        blocks = range(max(1, -(-len(part) // _DIGEST)))
        stream = b"".join(self.keyed.digests([b"%d,%d," % (attempt, block) + data for block in blocks]))
        if not part.isascii():
            runs = _runs_of(part.translate(_SHAPES).encode())
            return "".join(stream[at:end].translate(like).decode() if like else part[at:end] for at, end, like in runs)
        raw = part.encode()
        runs = _runs_of(raw.translate(_ASCII))
        found = [stream[at:end].translate(like) if like else raw[at:end] for at, end, like in runs]
        return b"".join(found).decode()


def _as(choice: str) -> bytes:
    """Return what makes random bytes characters of *choice*."""
    return (choice.encode() * 256)[:256]


class _Shapes(dict[int, str]):
    """Code point -> what kind of character it is: 0 for digits, A and a for letters, a space for all that stays."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        letter = "A" if character.isupper() else "a"
        self[code] = found = "0" if character.isdigit() else letter if character.isalpha() else " "
        return found


_SHAPES = _Shapes()
_ASCII = "".join(_SHAPES[code] for code in range(128)).encode().ljust(256)
_CHOICES = {
    b"0": _as("0123456789"),
    b"A": _as("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    b"a": _as("abcdefghijklmnopqrstuvwxyz"),
    b" ": b"",
}


#: Kind of character -> what makes 255 of it and 0 of all else. Tabs stay.
_IS = {kind: bytes(255 * (it == kind[0]) for it in _ASCII) for kind in _CHOICES}
_DIGEST = 32
#: Bytes of a text that is masked by its digest, and of values that are kept, as they may come again.
_LONG, KEPT = 4096, 256


def _blend(text: bytes, random: bytes) -> bytes:
    """Put characters made of *random* bytes in the place of those of *text* that do not stay: bitwise, all at once."""
    number, blended = int.from_bytes, 0
    for kind, choice in _CHOICES.items():
        here = text.translate(_IS[kind])
        if 255 in here:
            blended |= number(here) & number(random.translate(choice) if choice else text)
    return blended.to_bytes(len(text))


def _runs_of(shape: bytes) -> Sequence[tuple[int, int, bytes]]:
    """Return the stretches of characters of one kind: from, to, and what makes random bytes such characters."""
    return (_runs if len(shape) <= KEPT else _runs.__wrapped__)(shape)


@lru_cache(maxsize=4096)
def _runs(shape: bytes) -> Sequence[tuple[int, int, bytes]]:
    return tuple((it.start(), it.end(), _CHOICES[it[1]]) for it in re.finditer(rb"(.)\1*", shape))


@dataclass(frozen=True)
class Scrub(Change):
    """Replaces e-mail addresses and telephone numbers within a text; the same one always by the same."""

    keyed: Keyed

    def fields(self, plain: Sequence[bytes]) -> list[bytes]:
        # Neither pattern goes over a tab, or takes it for a part of a word.
        return self("\t".join([field.decode() for field in plain])).encode().split(b"\t")

    def __call__(self, text: str) -> str:
        parts, end = [], 0
        for begin, after in addresses(text):
            parts += [text[end:begin], self._email(text[begin:after])]
            end = after
        return PHONE.sub(lambda match: Mask(self.keyed)(match[0]), "".join([*parts, text[end:]]))

    def _email(self, address: str) -> str:
        return f"user-{self.keyed.digest(address.lower().encode()).hex()[:10]}@example.org"


@dataclass(frozen=True)
class Step(Change):
    """Numbers, rounded down to a multiple of *step*."""

    step: Decimal

    def __call__(self, text: str) -> str:
        number = decimal_of(text)
        return format((number / self.step).to_integral_value(ROUND_FLOOR) * self.step, "f")


@dataclass(frozen=True)
class Period(Change):
    """Dates and times, set back to the beginning of their month, quarter, year or decade. The time zone stays."""

    to: str

    def __call__(self, text: str) -> str:
        time = text[10:]
        zone = time[max(time.find("+"), time.find("-")) :] if "+" in time or "-" in time else ""
        if text.endswith("BC"):
            raise BadValue(_NO_DATE)
        return _beginning(text[:10], self.to) + (f" 00:00:00{zone}" if time else "")


@lru_cache(maxsize=1 << 15)
def _beginning(text: str, period: str) -> str:
    day = date_of(text)
    month = {"month": day.month, "quarter": (day.month - 1) // 3 * 3 + 1}.get(period, 1)
    year = day.year - day.year % 10 if period == "decade" else day.year
    return f"{max(year, 1):04d}-{month:02d}-01"


@dataclass(frozen=True)
class Prefix(Change):
    """The first characters of a text: districts of postcodes, for example."""

    length: int

    def __call__(self, text: str) -> str:
        return text[: self.length]


@dataclass(frozen=True)
class Fake(Change):
    """A value of a kind, chosen by the HMAC; never the value itself."""

    keyed: Keyed
    pool: Sequence[str]

    def __call__(self, text: str) -> str:
        return self._choose(text, self.keyed.number(text.encode()))

    def fields(self, plain: Sequence[bytes]) -> list[bytes]:
        numbers = self.keyed.numbers(plain)
        return [to_field(self._choose(it.decode(), number)) for it, number in zip(plain, numbers, strict=True)]

    def _choose(self, text: str, place: int) -> str:
        found = self.pool[place % len(self.pool)]
        return found if found.casefold() != text.strip().casefold() else self.pool[(place + 1) % len(self.pool)]


def fake_pool(kind: str, locale: str, keyed: Keyed, length: int | None) -> Sequence[str]:
    """Return different values of a kind that fit into *length* characters. Raise `JobRefused` without the library."""
    try:
        from faker import Faker
    except ImportError as error:
        raise JobRefused("the rule fake needs the extra: pip install 'shardpool[anonymise]'") from error
    try:
        faker = Faker(locale)
    except AttributeError as error:
        raise JobRefused(f"Faker has no locale {locale!r}") from error
    faker.seed_instance(keyed.number(f"{locale} {kind}".encode()))
    made = (" ".join(str(getattr(faker, kind)()).split()) for _ in range(FAKES))
    pool = list(dict.fromkeys(it for it in made if length is None or len(it) <= length))
    if len(pool) < 2:
        raise JobRefused(f"no two values of kind {kind!r} fit into {length} characters")
    return pool


def decimal_of(text: str) -> Decimal:
    """Return a number. Raise `BadValue` for NaN, infinity, and what is none."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise BadValue("not a number") from None
    if not number.is_finite():
        raise BadValue("not a finite number")
    return number


def date_of(text: str) -> datetime.date:
    """Return the date that a date or timestamp begins with. Raise `BadValue` for infinity and other calendars."""
    try:
        if text.endswith("BC"):
            raise ValueError
        return datetime.date.fromisoformat(text[:10])
    except ValueError:
        raise BadValue(_NO_DATE) from None
