"""Deadlocks over several shards: no server sees one, so whoever waits long looks at all of them.

The sessions of a transaction on several shards carry its name in `application_name`: the later ones from their
beginning, the first one when it is used again, or when the transaction waits for long. A router that has such a
transaction waiting for more than `PATIENCE` asks every shard who waits for whom. A cycle that is found twice, with the
same waits, is a deadlock; its victim is one that is repeated by itself, or else the youngest transaction of the cycle,
whichever router it belongs to, and each router cancels its own. Waits of other sessions in between count as well; a
prepared transaction waits for nobody.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg2

from shardpool.engines import Engines
from shardpool.engines.interrupt import AS_LOGGED_IN
from shardpool.errors import ExecutionError, NoSuchShard
from shardpool.two_phase.names import SESSIONS
from shardpool.two_phase.sessions import run, session

if TYPE_CHECKING:
    from shardpool.executor.branch import Branch

log = logging.getLogger(__name__)

#: How names begin after that which are to be taken for the youngest.
GIVES_WAY = "~"
#: How long a statement waits before its router suspects a deadlock, and between two looks at the shards, in seconds.
PATIENCE = 1.0
INTERVAL = 0.25

# Of what everybody may see: the sessions of a transaction may belong to another role than those in its way.
_WAITS = """
SELECT w.pid, w.application_name, coalesce(l.waitstart::text, ''), b.pid, coalesce(o.application_name, '')
FROM (SELECT pid, min(waitstart) AS waitstart FROM pg_locks WHERE NOT granted GROUP BY pid) l
JOIN pg_stat_activity w ON w.pid = l.pid CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b (pid)
LEFT JOIN pg_stat_activity o ON o.pid = b.pid
WHERE w.datname = current_database() AND b.pid <> 0
"""

#: A transaction by its name, or another session by its shard and process.
Node = str
#: (who waits, for whom) -> (shard, process, since when) of who waits.
Waits = Mapping[tuple[Node, Node], tuple[str, int, str]]


class Deadlocks:
    """Watches the statements of a router's transactions. Its thread runs only while there are some."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        #: By transaction and shard: since when, the branch that waits, and all branches.
        self._waiting: dict[tuple[str, str], tuple[float, Branch, tuple[Branch, ...]]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._something = threading.Event()

    def watch(self, name: str, branch: Branch, branches: Iterable[Branch]) -> tuple[str, str]:
        """From now on, until `leave` is given what this returns, the transaction *name* may wait on *branch*.

        It holds locks on all *branches*.
        """
        place = (name, branch.shard)
        self._waiting[place] = (time.monotonic(), branch, tuple(branches))
        if self._thread is None:
            self._start()
        if not self._something.is_set():
            self._something.set()
        return place

    def leave(self, place: tuple[str, str]) -> None:
        """It does not wait there any more."""
        with self._lock:  # no cancellation is under way any more
            del self._waiting[place]

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._closing.set()
        self._something.set()
        if self._thread is not None:
            self._thread.join(timeout=30)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="shardpool-deadlocks", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while not self._closing.is_set():
            self._something.wait()
            if not self._waiting:
                self._something.clear()
                if not self._waiting:
                    continue
            self._closing.wait(INTERVAL)
            try:
                self._look()
            except (ExecutionError, NoSuchShard, psycopg2.Error) as error:
                log.warning("deadlocks could not be looked for: %s", error)

    def _look(self) -> None:
        overdue = time.monotonic() - PATIENCE
        late = {name for (name, _), (began, _, _) in list(self._waiting.items()) if began < overdue}
        shards = {shard for name in late for shard in self._named(name)}
        if not shards:
            return
        first = self._ask(shards)
        mine = {SESSIONS + name for name, _ in list(self._waiting)}
        if not victims(first) & mine:
            return
        again = self._ask(shards)
        for victim in victims({wait: place for wait, place in first.items() if again.get(wait) == place}) & mine:
            shard, process = next(place[:2] for wait, place in again.items() if wait[0] == victim)
            self._cancel(victim.removeprefix(SESSIONS), shard, process)

    def _named(self, name: str) -> list[str]:
        """See that all sessions of a transaction that still waits carry its name; return their shards."""
        with self._lock:  # it uses none of them but those that wait
            entries = [entry for (other, _), entry in list(self._waiting.items()) if other == name]
            waiting = [branch for _, branch, _ in entries]
            branches = entries[0][2] if entries else ()
            for branch in branches:
                if branch not in waiting:
                    with suppress(psycopg2.Error):  # a broken session waits for nobody, and holds nothing
                        branch.send_mark()
            return [branch.shard for branch in branches]

    def _ask(self, shards: Iterable[str]) -> Waits:
        found: dict[tuple[Node, Node], tuple[str, int, str]] = {}
        for shard in sorted(shards):
            with session(self._engines, shard) as connection:
                rows: list[Any] = run(connection, _WAITS)
            for pid, name, since, blocker, blocker_name in rows:
                waits = (_node(shard, pid, name), _node(shard, blocker, blocker_name))
                found[waits] = (shard, pid, since)
        return found

    def _cancel(self, name: str, shard: str, process: int) -> None:
        # By a statement: the driver's own way holds up all threads of this process while it waits for the server.
        with self._lock, session(self._engines, shard) as connection:
            found = self._waiting.get((name, shard))
            if found is not None:
                log.info("transaction %s is the victim of a deadlock over several shards", name)
                found[1].cancelled = True
                run(connection, f"{AS_LOGGED_IN}SELECT pg_cancel_backend(%s)", (process,))


def _node(shard: str, pid: int, name: str) -> Node:
    return name if name.startswith(SESSIONS) else f"{shard}/{pid}"


def victims(waits: Iterable[tuple[Node, Node]]) -> set[Node]:
    """Return of each cycle the youngest transaction: names begin with the time."""
    following: dict[Node, set[Node]] = {}
    for waiting, blocker in waits:
        following.setdefault(waiting, set()).add(blocker)
    found = set()
    for start in following:
        for cycle in _cycles(start, following):
            named = [node for node in cycle if node.startswith(SESSIONS)]
            if named:
                found.add(max(named))
    return found


def _cycles(start: Node, following: Mapping[Node, set[Node]]) -> Iterator[list[Node]]:
    """Yield a cycle through *start*, if there is one."""
    paths = [[start]]
    seen = {start}
    while paths:
        path = paths.pop()
        for node in sorted(following.get(path[-1], ())):
            if node == start:
                yield path
                return
            if node not in seen:
                seen.add(node)
                paths.append([*path, node])
