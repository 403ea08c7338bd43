"""Where a round has its keys from: the logs of triggers, or the stream of a replication slot.

Either way a round must have all keys of what its snapshot of the source sees, since the last round: it reads the rows
by that snapshot, and no order among them. Keys of what the snapshot does not see stay for the next round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from typing import IO, Any, Protocol

from shardpool.bulk.values import to_field
from shardpool.errors import MoveError
from shardpool.moves.captured import Captured
from shardpool.moves.move import Move
from shardpool.moves.parallel import Work, keep_alive, together
from shardpool.moves.pgoutput import Key, KeyReader, position, transaction_end
from shardpool.moves.slot import log_running, slot_name
from shardpool.topology.names import quote

#: Logs of triggers larger than this, in bytes, are vacuumed after a round, lest later ones read their dead rows again.
VACUUM_ABOVE = 1 << 18
#: Keys are kept in memory up to so many bytes, and messages are fetched in such numbers.
SPOOL = 1 << 22
FETCH = 5000
#: So many keys are remembered lest they be noted twice.
REMEMBERED = 100_000


_PLACE = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s"


class KeySource(Protocol):
    """The keys that writers touch on one source."""

    def take(self, cursor: Any, locked: bool) -> dict[Captured, int]:
        """Put all keys of what the source's transaction sees into the temporary tables; return how many of each table.

        *cursor* is the source's. If *locked*, no writer is left.
        """

    def taken(self) -> None:
        """Forget what was taken: targets and source have committed the round."""


class LogKeys:
    """Keys that triggers have noted, in logs that the round's own transaction empties."""

    def __init__(self, move: Move, tables: Sequence[Captured]) -> None:
        self._move, self._tables = move, tables

    def take(self, cursor: Any, locked: bool) -> dict[Captured, int]:
        return {it: self._take(cursor, it) for it in self._written(cursor)}

    def _written(self, cursor: Any) -> Sequence[Captured]:
        """Return the tables whose logs are not empty."""
        if not self._tables:
            return ()
        log = self._move.record.capture
        cursor.execute(
            " UNION ALL ".join(f"SELECT {it.number} WHERE EXISTS (SELECT FROM {it.log(log)})" for it in self._tables)
        )
        found = {number for (number,) in cursor.fetchall()}
        return [it for it in self._tables if it.number in found]

    def _take(self, cursor: Any, it: Captured) -> int:
        """Move keys from the log into the temporary table, each once."""
        # A composite value with a NULL in it is neither NULL nor NOT NULL, but is distinct from NULL.
        there = "SELECT {} FROM taken WHERE {} IS DISTINCT FROM NULL"
        keys = " UNION ".join(there.format(", ".join(of), of[0]) for of in it.noted)
        cursor.execute(
            f"WITH taken AS (DELETE FROM {it.log(self._move.record.capture)} RETURNING *) INSERT INTO {it.keys} {keys}"
        )
        return int(cursor.rowcount)

    def taken(self) -> None:
        """Vacuum logs that have grown."""
        source, schema = self._move.servers.source, self._move.record.capture
        with source.cursor() as cursor:
            cursor.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r' "
                "AND pg_relation_size(oid) > %s",
                (quote(schema), VACUUM_ABOVE),
            )
            large = [name for (name,) in cursor.fetchall()]
        source.commit()
        if not large:
            return
        source.autocommit = True
        try:
            with source.cursor() as cursor:
                for name in large:
                    cursor.execute(f"VACUUM {quote(schema)}.{quote(name)}")
        finally:
            if not source.closed:
                source.autocommit = False


class SlotKeys:
    """Keys that a replication slot tells of.

    The slot tells of transactions in the order in which they were entered into the server's log (WAL). One whose
    commit is there may not yet be visible to a snapshot; so it is asked which the round's snapshot sees, and the slot
    is moved on no further than to the first that it does not. Until then, whatever happens, the slot tells all again.
    """

    def __init__(self, move: Move, tables: Sequence[Captured]) -> None:
        self._move = move
        self._tables = {it.table.name: it for it in tables}
        self._slot = slot_name(move.servers.stream, move.record.capture)
        self._place = self._ask(_PLACE, self._slot)
        self._next: int | None = None

    def take(self, cursor: Any, locked: bool) -> dict[Captured, int]:
        self._move.servers.stream.rollback()  # of a cutover that was broken off
        if not locked:
            log_running(self._move.servers.stream, self._slot)
        cursor.execute("SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text")
        seen, until = cursor.fetchone()
        with _Spool(self._tables.values()) as spool:
            read = Work(self._move.servers.stream, lambda: self._read(Snapshot(seen), until, locked, spool))
            (self._next,) = together([read], meanwhile=lambda: keep_alive(self._move.servers.source))
            return spool.copy(cursor)

    def taken(self) -> None:
        """Move the slot on, so that the server may forget its log."""
        stream = self._move.servers.stream
        if self._next is not None:
            with stream.cursor() as cursor:
                cursor.execute(
                    "SELECT end_lsn::text FROM pg_replication_slot_advance(%s, %s::pg_lsn)",
                    (self._slot, f"{self._next >> 32:X}/{self._next & 0xFFFFFFFF:X}"),
                )
                (self._place,) = cursor.fetchone()
            stream.commit()
            self._next = None

    def _read(self, snapshot: Snapshot, until: str, locked: bool, spool: _Spool) -> int:
        """Note the keys that were written up to *until*; return how far the slot may be moved on."""
        stream = self._move.servers.stream
        self._flush(until)
        reader = KeyReader(self._move.record.schema, {name: it.names for name, it in self._tables.items()})
        ends, unseen = position(self._place), False
        with stream.cursor() as cursor:
            limit = max(int(self._move.patience * 1000), 1) if locked else 0
            cursor.execute(f"SET LOCAL statement_timeout = {limit}")
        with stream.cursor("shardpool_stream") as cursor:
            cursor.itersize = FETCH
            cursor.execute(
                "SELECT xid::text::bigint, data FROM pg_logical_slot_peek_binary_changes(%s, %s::pg_lsn, NULL, "
                "'proto_version', '1', 'publication_names', %s)",
                (self._slot, until, quote(self._move.record.capture)),
            )
            for xid, data in cursor:
                message = bytes(data)
                if message[:1] == b"C" and not unseen:
                    ends = transaction_end(message)
                for table, key in reader.read(message):
                    if snapshot.sees(xid):
                        spool.note(table, key)
                    else:
                        unseen = True
        stream.commit()
        if unseen and locked:
            raise MoveError(f"{self._move.record}: the slot tells of writers that should have ended; nothing was moved")
        return ends if unseen else max(ends, position(until))

    def _flush(self, until: str) -> None:
        """See to it that the log is written as far as *until*: a slot tells no more than that. Raise `MoveError` if
        somebody else has read from the slot, which forgets what it told."""
        stream = self._move.servers.stream
        place = self._ask(_PLACE, self._slot)
        if place != self._place:
            raise MoveError(
                f"{self._move.record}: replication slot {self._slot} is at {place} and not at {self._place}: somebody "
                f"has read from it; nothing was moved"
            )
        with stream.cursor() as cursor:
            # A commit that waits for the disk takes all that was logged before with it; no replica need have it.
            cursor.execute("SET LOCAL synchronous_commit = local")
            cursor.execute("SELECT pg_logical_emit_message(true, 'shardpool', '')")
        stream.commit()
        written = self._ask("SELECT pg_current_wal_flush_lsn()::text")
        if position(written) < position(until):
            raise MoveError(f"{self._move.record}: the log is written up to {written}, and not to {until}")

    def _ask(self, query: str, *values: str) -> str:
        stream = self._move.servers.stream
        with stream.cursor() as cursor:
            cursor.execute(query, values)
            found = cursor.fetchone()
        stream.commit()
        if found is None:
            raise MoveError(f"{self._move.record}: replication slot {self._slot} is gone; nothing was moved")
        return str(found[0])


class Snapshot:
    """A snapshot as `pg_current_snapshot` prints it: 'xmin:xmax:xip,xip'."""

    def __init__(self, printed: str) -> None:
        _, last, running = printed.split(":")
        self._end = int(last) & 0xFFFFFFFF
        self._running = {int(it) & 0xFFFFFFFF for it in running.split(",") if it}

    def sees(self, xid: int) -> bool:
        """Whether it sees a transaction that has committed. Numbers of transactions are told without their epoch."""
        return xid not in self._running and (self._end - xid - 1) & 0xFFFFFFFF < 1 << 31


class _Spool:
    """Keys on their way into the temporary tables, as COPY's text; on disk if they are many."""

    def __init__(self, tables: Iterable[Captured]) -> None:
        self._tables = {it.table.name: it for it in tables}
        self._files: dict[str, IO[bytes]] = {}
        self._remembered: dict[str, set[Key]] = {}
        self._counts: dict[str, int] = {}

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def note(self, table: str, key: Key) -> None:
        remembered = self._remembered.setdefault(table, set())
        if key in remembered:
            return
        if len(remembered) >= REMEMBERED:
            remembered.clear()
        remembered.add(key)
        if table not in self._files:
            self._files[table] = tempfile.SpooledTemporaryFile(SPOOL)  # noqa: SIM115
            self._counts[table] = 0
        self._counts[table] += 1
        self._files[table].write(b"\t".join(map(to_field, key)) + b"\n")

    def copy(self, cursor: Any) -> dict[Captured, int]:
        """Copy all into the temporary tables; return how many keys each got."""
        for table, file in self._files.items():
            file.seek(0)
            cursor.copy_expert(f"COPY {self._tables[table].keys} FROM STDIN", file)
        return {it: self._counts[name] for name, it in self._tables.items() if name in self._counts}
