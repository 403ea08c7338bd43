"""The secret, and the keyed hashes made of it. It is read from the environment and never stored, printed or sent."""

from __future__ import annotations

import hashlib
import os
import sys
from array import array
from collections.abc import Iterable

from shardpool.errors import JobRefused

#: A shorter one could be guessed from the pseudonyms.
MIN_BYTES = 16
#: Of SHA-256, in bytes.
_BLOCK = 64
_INNER, _OUTER = bytes(it ^ 0x36 for it in range(256)), bytes(it ^ 0x5C for it in range(256))


class Keyed:
    """HMAC-SHA-256 under the secret, apart for each domain. Does not print its key.

    The two hashes that HMAC begins with are kept, as the key is the same for millions of values: twice as quick as
    `hmac.digest`, of which the tests say that it gives the same.
    """

    def __init__(self, secret: bytes) -> None:
        key = (hashlib.sha256(secret).digest() if len(secret) > _BLOCK else secret).ljust(_BLOCK, b"\0")
        self._inner, self._outer = hashlib.sha256(key.translate(_INNER)), hashlib.sha256(key.translate(_OUTER))

    def __repr__(self) -> str:
        return "Keyed(***)"

    def domain(self, name: str) -> Keyed:
        """Return the hashes of a domain: equal values have equal ones within it, and unrelated ones in another."""
        return Keyed(self.digest(b"domain\0" + name.encode()))

    def digests(self, many: Iterable[bytes], prefix: bytes = b"") -> list[bytes]:
        """Return the digest of each, with *prefix* before it."""
        begun = self._inner.copy()
        begun.update(prefix)
        inner, outer = begun.copy, self._outer.copy
        found = []
        for data in many:
            first = inner()
            first.update(data)
            second = outer()
            second.update(first.digest())
            found.append(second.digest())
        return found

    def digest(self, data: bytes) -> bytes:
        """Return 32 bytes that nobody can relate to *data* without the secret."""
        return self.digests((data,))[0]

    def numbers(self, many: Iterable[bytes], prefix: bytes = b"") -> list[int]:
        """Return the first 64 bits of each digest as a number."""
        numbers = array("Q", b"".join(self.digests(many, prefix)))[::4]
        if sys.byteorder == "little":
            numbers.byteswap()
        return numbers.tolist()

    def number(self, data: bytes) -> int:
        """Return 64 bits of the digest as a number."""
        return self.numbers((data,))[0]


def read_secret(variable: str) -> Keyed:
    """Return the secret that an environment variable holds. Raise `JobRefused` if it is missing or short."""
    value = os.environ.get(variable, "").encode()
    if len(value) < MIN_BYTES:
        raise JobRefused(
            f"the environment variable {variable} is to hold the secret, at least {MIN_BYTES} bytes; "
            f"it {'has ' + str(len(value)) if value else 'is not set'}. Make one: openssl rand -hex 32"
        )
    return Keyed(value)
