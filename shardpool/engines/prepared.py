"""The cursor of a pooled session, and the statements that are prepared there: planned once, and not at each call."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import count
from typing import Any

from psycopg2 import extensions

#: A statement is prepared at this use of it in a session, as psycopg 3 does: what is used seldom costs more so.
PREPARED_AT = 5
#: So many statements a session keeps, prepared and counted; beyond that it starts anew. Each takes some 10 kB there.
MAX_PREPARED = 100


class SessionCursor(extensions.cursor):
    """The one cursor of all transactions that lease its connection: ``entry.info["cursor"]``.

    A plan is good for the search path under which it was made; under another the server makes it anew each time. So
    `path` tells whose path the transaction has set, and a statement is prepared for each.
    """

    path: Hashable = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._names: dict[Hashable, str] = {}
        self._uses: dict[Hashable, int] = {}
        self._numbers = count()

    def prepared(self, arguments: str, statement: str) -> str | None:
        """Return the name of *statement*, prepared with the types *arguments*, or None while it was used seldom.

        Raise psycopg2's errors.
        """
        key = self.path, statement
        return self._names.get(key) or self._count(key, arguments, statement)

    def _count(self, key: Hashable, arguments: str, statement: str) -> str | None:
        if len(self._uses) >= MAX_PREPARED and key not in self._uses:
            self.execute("DEALLOCATE ALL")
            self._names, self._uses = {}, {}
        uses = self._uses[key] = self._uses.get(key, 0) + 1
        if uses < PREPARED_AT:
            return None
        name = f"shardpool_{next(self._numbers)}"
        self.execute(f"PREPARE {name} ({arguments}) AS {statement}")
        self._names[key] = name
        return name
