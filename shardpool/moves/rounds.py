"""Carrying over what was written while rows were copied: in rounds, each from one snapshot of a source.

A round takes the keys of all that its snapshot sees (`keys`), deletes their rows on the target, and inserts what the
same snapshot sees of them on the source. So after a round the target has exactly what the source had at that snapshot,
and no unique or check constraint can be in the way. A key whose writer commits later stays for the next round. The
target commits first; if the source then does not, the keys are taken again, to no harm.

A source that is cut into several targets has rounds that reach them all: each key goes to one. Sources that become one
have rounds of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from typing import Any

from shardpool import faults
from shardpool.moves.capture import keys_of
from shardpool.moves.captured import Captured, captured_tables
from shardpool.moves.layout import look_into, read_layout
from shardpool.moves.move import Move
from shardpool.moves.parallel import Work, keep_alive, together
from shardpool.moves.relay import Relay
from shardpool.moves.spread import Spread
from shardpool.moves.verify import Digests, compare, digest, read_digests
from shardpool.topology.names import quote

_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"


class Rounds:
    """The rounds of one attempt at a move, from one source: its connections have temporary tables for them.

    `verified` rounds compare the rows that they carried over. Methods raise `DigestMismatch`, `MoveError` for rows that
    are in the wrong partition, and the driver's errors.
    """

    def __init__(self, move: Move) -> None:
        self._move = move
        self._legs = [leg for leg in move.legs if leg.record.partition == move.record.partition]
        self._targets = [leg.servers.target for leg in self._legs]
        self._tables = captured_tables(move, move.servers.source, move.record.schema)
        self._relay = Relay(move.servers.source, self._targets, lambda size: None, move.meter.tick)
        self.source = move.servers.source
        self.verified = False
        self._create_temporary_tables()
        self._keys = keys_of(move, self._tables)

    def run(self) -> int:
        """Do one round while writers go on; return how many keys it carried over."""
        source = self._move.servers.source
        source.rollback()
        count = self._round(_SNAPSHOT)
        source.commit()
        self._keys.taken()
        return count

    def run_locked(self) -> int:
        """Do the last round: no writer is left, because the source's transaction has locked the tables."""
        return self._round("SELECT", "last", locked=True)

    def run_and_stay(self) -> None:
        """Do one round, and leave the source's transaction in its snapshot, for `verify_all`."""
        self._move.servers.source.rollback()
        self._round(_SNAPSHOT)

    def digests(self) -> Digests:
        """Return the digests of all rows of the source, and end its transaction."""
        record, source = self._move.record, self._move.servers.source
        tables = [it.table for it in self._tables]
        found = read_digests(source, record.keyspace, record.schema, tables, self._move.throttle.pace.rest)
        source.commit()  # the other side may take longer
        return found

    # -- one round --------------------------------------------------------------------------------------------------

    def _round(self, begin: str, name: str = "round", *, locked: bool = False) -> int:
        record, source = self._move.record, self._move.servers.source
        with source.cursor() as cursor:
            cursor.execute(begin)
            look_into(source, record.keyspace, record.schema)
            taken = self._keys.take(cursor, locked)
            written, count = list(taken), sum(taken.values())
            for it in written:
                cursor.execute(f"ANALYZE {it.keys}")  # few keys are looked up in an index, many are not
        for leg in self._legs:
            look_into(leg.servers.target, record.keyspace, leg.record.incoming)
        for it in written:
            self._send(it)
        if written:
            works = [Work(leg.servers.target, partial(_apply, leg, written)) for leg in self._legs]
            together(works, meanwhile=lambda: keep_alive(source))
        if self.verified:
            self._compare(written)
        faults.fault_point(f"move:{name}:inside")
        for target in self._targets:
            target.commit()
        faults.fault_point(f"move:{name}:committed")
        self._move.meter.carried += count
        self._move.meter.lag = count
        return count

    def _send(self, it: Captured) -> None:
        schema, count = self._move.record.schema, len(self._targets)
        keys = self._spreads[it.number, it.key] if count > 1 else None
        self._relay.transfer(f"SELECT * FROM {it.keys}", [it.keys] * count, it.table.binary, spread=keys)
        if it.table.insertable:
            columns = ", ".join(it.table.insertable)
            query = f"SELECT {columns} FROM ONLY {quote(schema)}.{quote(it.table.name)} WHERE {_among(it)}"
            rows = self._spreads[it.number, it.table.insertable] if count > 1 else None
            self._relay.transfer(query, [it.rows] * count, it.table.binary, spread=rows)

    @cached_property
    def _spreads(self) -> dict[tuple[int, tuple[str, ...]], Spread]:
        """Which key, and which row, of a table goes to which target; by its number and the columns."""
        tables, bounds = self._move.router.topology.tables, list(self._move.record.bounds.values())
        return {
            (it.number, columns): Spread(tables[it.table.name], columns, bounds)
            for it in self._tables
            for columns in (it.key, it.table.insertable)
        }

    def _compare(self, written: Sequence[Captured]) -> None:
        """Compare the rows that were carried over, before they are committed."""
        record, source = self._move.record, self._move.servers.source
        here = _digests(source, record.schema, written)
        there = [_digests(leg.servers.target, leg.record.incoming, written) for leg in self._legs]
        compare(record, here, total(there))

    # -- around -----------------------------------------------------------------------------------------------------

    def _create_temporary_tables(self) -> None:
        sides = [(self._move.servers.source, self._move.record.schema)]
        sides += [(leg.servers.target, leg.record.incoming) for leg in self._legs]
        for connection, schema in sides:
            with connection.cursor() as cursor:
                for it in self._tables:
                    table = f"{quote(schema)}.{quote(it.table.name)}"
                    columns = {it.keys: it.columns, it.rows: ", ".join(it.table.insertable)}
                    for name, of in columns.items():
                        # Those of several sources are the same on their target.
                        cursor.execute(
                            f"CREATE TEMPORARY TABLE IF NOT EXISTS {name.removeprefix('pg_temp.')} "
                            f"ON COMMIT DELETE ROWS AS SELECT {of} FROM {table} WITH NO DATA"
                        )
            connection.commit()


def verify_all(move: Move, rounds: Iterable[Rounds]) -> None:
    """Do one round from each source, and compare all rows as of these snapshots. Later rounds compare theirs.

    What a source is cut into has together what it had, and each part only what belongs there.
    """
    found = list(rounds)
    for it in found:
        it.run_and_stay()
    legs = move.by_target
    works = [Work(it.source, it.digests) for it in found]
    works += [Work(leg.servers.target, partial(_digests_of, leg)) for leg in legs]
    digests = together(works, move.meter.tick)
    compare(move.record, total(digests[: len(found)]), total(digests[len(found) :]))
    if len(legs) > 1:
        together([Work(leg.servers.target, partial(_check_places, leg)) for leg in legs], move.meter.tick)
    for it in found:
        it.verified = True


def total(digests: Iterable[Digests]) -> Digests:
    """Return the digests of all these rows together: rows and hashes are summed."""
    rows, hashes = Counter[str](), Counter[str]()
    for found in digests:
        for table, (count, value) in found.items():
            rows[table] += count
            hashes[table] += value
    return {table: (rows[table], hashes[table]) for table in rows}


def _digests_of(leg: Move) -> Digests:
    record, target = leg.record, leg.servers.target
    tables = read_layout(target, record.incoming)
    found = read_digests(target, record.keyspace, record.incoming, tables, leg.throttle.pace.rest)
    target.commit()  # others may take longer, and its server ends a session that is idle in a transaction
    return found


def _check_places(leg: Move) -> None:
    """Raise `MoveError` if a target has a row of another partition."""
    record, target = leg.record, leg.servers.target
    place, bounds = list(record.bounds).index(record.result), list(record.bounds.values())
    for it in captured_tables(leg, target, record.incoming):
        table = leg.router.topology.tables[it.table.name]
        keys = [quote(name) for name in table.key]
        checked = Spread(table, keys, bounds).check(place)
        query = f"SELECT {', '.join(keys)} FROM ONLY {quote(record.incoming)}.{quote(table.name)}"
        with target.cursor() as cursor:
            cursor.copy_expert(f"COPY ({query}) TO STDOUT", checked)
        checked.flush()
    target.commit()


def _apply(leg: Move, written: Sequence[Captured]) -> None:
    incoming = quote(leg.record.incoming)
    with leg.servers.target.cursor() as cursor:
        for it in written:
            cursor.execute(f"ANALYZE {it.keys}")
            cursor.execute(f"DELETE FROM ONLY {incoming}.{quote(it.table.name)} WHERE {_among(it)}")
        for it in written:
            columns = ", ".join(it.table.insertable)
            cursor.execute(f"INSERT INTO {incoming}.{quote(it.table.name)} ({columns}) SELECT {columns} FROM {it.rows}")


def _digests(connection: Any, schema: str, written: Sequence[Captured]) -> Digests:
    """Return the digests of the rows whose keys were carried over."""
    if not written:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(digest(schema, it.table, f" WHERE {_among(it)}") for it in written))
        return {name: (int(rows), int(value)) for name, rows, value in cursor.fetchall()}


def _among(it: Captured) -> str:
    return f"({it.columns}) IN (SELECT {it.columns} FROM {it.keys})"
