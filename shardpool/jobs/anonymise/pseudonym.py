"""Pseudonyms: another value of the same type for each value, the same one everywhere in a domain.

Integers are permuted, by a Feistel network with HMAC as its round function: so no two share a pseudonym, whatever the
number of rows. Texts, uuids and bytea become parts of the HMAC itself, of at least 80 bits.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from shardpool.bulk.values import BadValue
from shardpool.jobs.anonymise.change import Change
from shardpool.jobs.anonymise.secret import Keyed

#: Bits of a non-negative value.
WIDTHS = {"smallint": 15, "integer": 31, "bigint": 63}
MAIL_DOMAIN = "@example.org"
#: Characters of five bits each: what there is, and what must be.
TOKEN, SHORTEST_TOKEN = 26, 16
#: A random byte -> one of 32 characters.
_FIVE_BITS = b"abcdefghijklmnopqrstuvwxyz234567" * 8


@dataclass(frozen=True)
class Permutation(Change):
    """A keyed permutation of the numbers below 2**bits; negative ones are permuted among themselves."""

    keyed: Keyed
    bits: int

    def __call__(self, text: str) -> str:
        return self.fields([text.encode()])[0].decode()

    def fields(self, plain: Sequence[bytes]) -> list[bytes]:
        numbers = list(map(int, plain))
        changed = self.of([number if number >= 0 else -1 - number for number in numbers])
        return [b"%d" % (new if old >= 0 else -1 - new) for old, new in zip(numbers, changed, strict=True)]

    def of(self, numbers: Sequence[int]) -> list[int]:
        """Return the pseudonyms of *numbers*, each ``0 <= number < 2**bits``. Raise `BadValue` for others."""
        if any(number >> self.bits for number in numbers):
            raise BadValue(f"more than the {self.bits} bits of the smallest column of its domain")
        low = self.bits // 2
        high = self.bits - low
        left, right = [number >> high for number in numbers], [number & ((1 << high) - 1) for number in numbers]
        # Four rounds hide 2**31 known pairs; narrow domains get the ten of NIST's FF1.
        for step in range(4 if self.bits > 32 else 10):
            mask = (1 << (low if step % 2 == 0 else high)) - 1
            mixed = self.keyed.numbers([b"%d" % number for number in right], b"%d,%d," % (self.bits, step))
            left, right = right, [(one + other) & mask for one, other in zip(left, mixed, strict=True)]
        return [one << high | other for one, other in zip(left, right, strict=True)]


@dataclass(frozen=True)
class Token(Change):
    """Letters and digits; as an e-mail address with *mail*."""

    keyed: Keyed
    length: int = TOKEN
    mail: bool = False

    def __call__(self, text: str) -> str:
        return self.fields([text.encode()])[0].decode()

    def fields(self, plain: Sequence[bytes]) -> list[bytes]:
        length, domain = self.length, MAIL_DOMAIN.encode() if self.mail else b""
        digests = self.keyed.digests([field.rstrip(b" ") for field in plain])
        return [digest[:length].translate(_FIVE_BITS) + domain for digest in digests]


@dataclass(frozen=True)
class UuidPseudonym(Change):
    """A uuid of version 8, which leaves 122 bits to whoever makes it."""

    keyed: Keyed

    def __call__(self, text: str) -> str:
        return self.fields([text.encode()])[0].decode()

    def fields(self, plain: Sequence[bytes]) -> list[bytes]:
        return [_uuid(digest) for digest in self.keyed.digests([field.lower() for field in plain])]


def _uuid(digest: bytes) -> bytes:
    number = int.from_bytes(digest[:16], "big") & ~(0xF << 76) | (8 << 76)
    return str(uuid.UUID(int=number & ~(0x3 << 62) | (0x2 << 62))).encode()


@dataclass(frozen=True)
class ByteaPseudonym(Change):
    keyed: Keyed

    def __call__(self, text: str) -> str:
        return "\\x" + self.keyed.digest(text.encode()).hex()
