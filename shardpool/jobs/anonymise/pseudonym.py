"""Pseudonyms: another value of the same type for each value, the same one everywhere in a domain.

Integers are permuted, by a Feistel network with HMAC as its round function: so no two share a pseudonym, whatever the
number of rows. Texts, uuids and bytea become parts of the HMAC itself, of at least 80 bits.
"""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass

from shardpool.bulk.values import BadValue
from shardpool.jobs.anonymise.secret import Keyed

#: Bits of a non-negative value.
WIDTHS = {"smallint": 15, "integer": 31, "bigint": 63}
MAIL_DOMAIN = "@example.org"
#: Characters of five bits each: what there is, and what must be.
TOKEN, SHORTEST_TOKEN = 26, 16


@dataclass(frozen=True)
class Permutation:
    """A keyed permutation of the numbers below 2**bits; negative ones are permuted among themselves."""

    keyed: Keyed
    bits: int

    def __call__(self, text: str) -> str:
        number = int(text)
        return str(-1 - self.of(-1 - number)) if number < 0 else str(self.of(number))

    def of(self, number: int) -> int:
        """Return the pseudonym of ``0 <= number < 2**bits``. Raise `BadValue` for others."""
        if number >> self.bits:
            raise BadValue(f"more than the {self.bits} bits of the smallest column of its domain")
        low = self.bits // 2
        high = self.bits - low
        left, right = number >> high, number & ((1 << high) - 1)
        # Four rounds hide 2**31 known pairs; narrow domains get the ten of NIST's FF1.
        for step in range(4 if self.bits > 32 else 10):
            bits = low if step % 2 == 0 else high
            mixed = self.keyed.number(b"%d,%d,%d" % (self.bits, step, right))
            left, right = right, (left + mixed) & ((1 << bits) - 1)
        return (left << high) | right


@dataclass(frozen=True)
class Token:
    """Letters and digits; as an e-mail address with *mail*."""

    keyed: Keyed
    length: int = TOKEN
    mail: bool = False

    def __call__(self, text: str) -> str:
        digest = base64.b32encode(self.keyed.digest(text.rstrip(" ").encode())).decode().lower()
        return digest[: self.length] + (MAIL_DOMAIN if self.mail else "")


@dataclass(frozen=True)
class UuidPseudonym:
    """A uuid of version 8, which leaves 122 bits to whoever makes it."""

    keyed: Keyed

    def __call__(self, text: str) -> str:
        number = int.from_bytes(self.keyed.digest(text.lower().encode())[:16], "big")
        number = number & ~(0xF << 76) | (8 << 76)
        return str(uuid.UUID(int=number & ~(0x3 << 62) | (0x2 << 62)))


@dataclass(frozen=True)
class ByteaPseudonym:
    keyed: Keyed

    def __call__(self, text: str) -> str:
        return "\\x" + self.keyed.digest(text.encode()).hex()
