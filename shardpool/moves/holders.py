"""Who uses a partition's tables: to wait for them, and to name them when they do not let go."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from shardpool.errors import CutoverTimeout
from shardpool.topology.names import quote

# Sessions of other roles show neither state nor beginning, if the role may not read all statistics (`Ages`). Autovacuum
# is then known by having no role. A prepared transaction has no process, and counts as old.
_HOLDERS = """
SELECT l.pid, l.virtualtransaction, array_agg(DISTINCT l.mode), coalesce(a.application_name, ''),
       coalesce(a.state, ''),
       CASE WHEN l.pid IS NULL THEN 'Infinity' ELSE extract(epoch FROM clock_timestamp() - a.xact_start)::float8 END,
       coalesce(a.backend_type = 'autovacuum worker', a.pid IS NOT NULL AND a.usesysid IS NULL),
       EXISTS (SELECT FROM pg_locks w JOIN pg_class r ON r.oid = w.relation AND r.relnamespace = c.relnamespace
               WHERE w.pid = l.pid AND NOT w.granted),
       (SELECT min(p.gid) FROM pg_locks x JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
        WHERE l.pid IS NULL AND x.pid IS NULL AND x.virtualtransaction = l.virtualtransaction)
FROM pg_locks l
JOIN pg_class c ON c.oid = l.relation AND c.relnamespace = to_regnamespace(%s) AND c.relkind = 'r'
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND l.pid IS DISTINCT FROM pg_backend_pid()
GROUP BY c.relnamespace, l.pid, l.virtualtransaction, a.pid, a.usesysid, a.application_name, a.state, a.xact_start,
    a.backend_type
ORDER BY a.xact_start, l.pid
"""

# What a new replication slot waits for: whoever has written anywhere on the server. Others' sessions show no age.
_SERVER_WRITERS = """
SELECT pid, coalesce(application_name, ''), coalesce(state, ''),
       extract(epoch FROM clock_timestamp() - xact_start)::float8, NULL
FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
UNION ALL
SELECT NULL, '', '', extract(epoch FROM clock_timestamp() - prepared)::float8, gid FROM pg_prepared_xacts
ORDER BY 4 DESC
"""


#: Seconds between two looks at what is waited for.
POLL = 0.01
#: A transaction is old after this time, in seconds: it is waited for before anything makes others wait.
OLD = 0.3


@dataclass(frozen=True)
class Holder:
    """A transaction that holds locks on a partition's tables. `waits` if it waits for another of these tables.
    `seconds` is its age, None if the role may not see it."""

    pid: int | None
    transaction: str
    modes: frozenset[str]
    application: str
    state: str
    seconds: float | None
    vacuums: bool
    waits: bool
    gid: str | None

    def __str__(self) -> str:
        if self.pid is None:
            return f"prepared transaction {self.gid!r}"
        age = f", for {self.seconds:.1f} s" if self.seconds is not None and math.isfinite(self.seconds) else ""
        return f"pid {self.pid} ({self.application or 'unknown'}, {self.state or 'unknown'}{age})"


class Ages:
    """Tells how old transactions are, also where the role may not see it: of those, who is there at the first look may
    be old, and who comes later is as old as the first look at him."""

    def __init__(self) -> None:
        self._seen: dict[str, float] | None = None

    def older(self, holders: Collection[Holder], than: float) -> list[Holder]:
        """Return those that are, or may be, older than so many seconds. Each call is a look."""
        now = time.monotonic()
        before, first = ({}, -math.inf) if self._seen is None else (self._seen, now)
        self._seen = {it.transaction: before.get(it.transaction, first) for it in holders}
        return [it for it in holders if (now - self._seen[it.transaction] if it.seconds is None else it.seconds) > than]


def read_holders(connection: Any, schema: str) -> list[Holder]:
    """Return all transactions but the connection's own that hold locks on tables of *schema*, the oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(_HOLDERS, (quote(schema),))
        return [Holder(row[0], row[1], frozenset(row[2]), *row[3:]) for row in cursor.fetchall()]


def read_server_writers(connection: Any, older_than: float = 0.0) -> list[Holder]:
    """Return the transactions that have written in any database of the server, the oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(_SERVER_WRITERS)
        return [
            Holder(pid, "", frozenset(), application, state, seconds, False, False, gid)
            for pid, application, state, seconds, gid in cursor.fetchall()
            if seconds is None or seconds >= older_than
        ]


def writers(holders: Collection[Holder]) -> list[Holder]:
    """Return those whose locks keep a move from locking the tables."""
    return [holder for holder in holders if holder.modes - {"AccessShareLock"}]


def tenders(holders: Collection[Holder]) -> list[Holder]:
    """Return those whose locks keep the tables from being published."""
    light = {"AccessShareLock", "RowShareLock", "RowExclusiveLock"}
    return [holder for holder in holders if holder.modes - light]


def readers(holders: Collection[Holder]) -> list[Holder]:
    """Return those that have read and may read again. A prepared transaction executes nothing any more."""
    return [holder for holder in holders if holder.pid is not None and "AccessShareLock" in holder.modes]


def wait_until_none(ask: Callable[[], Sequence[Holder]], patience: float, what: str) -> None:
    """Poll until *ask* returns nothing. Raise `CutoverTimeout` after *patience* seconds, beginning with *what*."""
    deadline = time.monotonic() + patience
    while found := ask():
        if time.monotonic() > deadline:
            raise CutoverTimeout(f"{what}: {', '.join(map(str, found))}")
        time.sleep(POLL)
