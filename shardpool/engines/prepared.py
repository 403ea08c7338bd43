"""The cursor of a pooled session, and the statements that are prepared there: planned once, and not at each call."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import count
from typing import Any

from psycopg2 import extensions

#: A statement is prepared at this use of it in a session, as psycopg 3 does: what is used seldom costs more so.
PREPARED_AT = 5


class SessionCursor(extensions.cursor):
    """The one cursor of all transactions that lease its connection: ``entry.info["cursor"]``.

    A plan is good for the search path under which it was made; under another the server makes it anew each time. So
    `path` tells what the transaction has set, and a statement is prepared for each. Beyond `limit` statements, prepared
    and counted, the session starts anew; with 0 nothing is prepared.
    """

    path = ""
    limit = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._numbers = count()
        self.forget()

    def forget(self) -> None:
        """The session has none any more."""
        self._names: dict[Hashable, str] = {}
        self._uses: dict[Hashable, int] = {}

    def prepared(self, types: str, statement: str) -> str | None:
        """Return the name of *statement*, prepared with parameters of *types* under `path`, or None while it was used
        seldom. Outside of a transaction as well. Raise psycopg2's errors.
        """
        key = self.path, statement
        return self._names.get(key) or self._count(key, types, statement)

    def _count(self, key: Hashable, types: str, statement: str) -> str | None:
        if not self.limit:
            return None
        if len(self._uses) >= self.limit and key not in self._uses:
            if self._names:
                self.execute("DEALLOCATE ALL")
            self.forget()
        uses = self._uses[key] = self._uses.get(key, 0) + 1
        if uses < PREPARED_AT:
            return None
        name = f"shardpool_{next(self._numbers)}"
        self.execute(f"{self.path}PREPARE {name} ({types}) AS {statement}")
        self._names[key] = name
        return name
