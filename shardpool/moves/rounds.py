"""Carrying over what was written while rows were copied: in rounds, each from one snapshot of the source.

A round takes all keys that its snapshot sees in the logs, deletes their rows on the target, and inserts what the same
snapshot sees of them on the source. So after a round the target has exactly what the source had at that snapshot, and
no unique or check constraint can be in the way. A key whose writer commits later stays for the next round: the log is
never read by position. The target commits first; if the source then does not, the keys are taken again, to no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardpool import faults
from shardpool.moves.capture import Captured, captured_tables
from shardpool.moves.layout import look_into
from shardpool.moves.move import Move
from shardpool.moves.parallel import Work, keep_alive, together
from shardpool.moves.relay import Relay
from shardpool.moves.verify import compare, digest, read_digests
from shardpool.topology.names import quote

#: Logs larger than this, in bytes, are vacuumed after a round: later rounds would read their dead rows again.
VACUUM_ABOVE = 1 << 18


class Rounds:
    """The rounds of one attempt at a move: its connections have temporary tables for them.

    `verified` rounds compare the rows that they carried over. Methods raise `DigestMismatch` and the driver's errors.
    """

    def __init__(self, move: Move) -> None:
        self._move = move
        self._tables = captured_tables(move, move.servers.source, move.record.schema)
        self._relay = Relay(move.servers.source, move.servers.target, lambda size: None, move.meter.tick)
        self.verified = False
        self._create_temporary_tables()

    def run(self) -> int:
        """Do one round while writers go on; return how many keys it carried over."""
        source = self._move.servers.source
        source.rollback()
        count = self._round("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        source.commit()
        self._vacuum()
        return count

    def run_locked(self) -> int:
        """Do the last round: no writer is left, because the source's transaction has locked the tables."""
        return self._round("SELECT", "last")

    def verify_all(self) -> None:
        """Do one round, and compare all rows of both sides as of its snapshot. Later rounds compare theirs."""
        record, source, target = self._move.record, self._move.servers.source, self._move.servers.target
        source.rollback()
        self._round("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        layouts = [it.table for it in self._tables]

        def here() -> Any:
            found = read_digests(source, record.keyspace, record.schema, layouts)
            source.commit()  # the other side may take longer
            return found

        def there() -> Any:
            return read_digests(target, record.keyspace, record.incoming, layouts)

        compare(record, *together([Work(source, here), Work(target, there)], self._move.meter.tick))
        target.commit()
        self.verified = True

    # -- one round --------------------------------------------------------------------------------------------------

    def _round(self, begin: str, name: str = "round") -> int:
        record, source, target = self._move.record, self._move.servers.source, self._move.servers.target
        with source.cursor() as cursor:
            cursor.execute(begin)
            look_into(source, record.keyspace, record.schema)
            written = self._written(cursor)
            count = sum(self._take(cursor, it) for it in written)
        look_into(target, record.keyspace, record.incoming)
        for it in written:
            self._send(it)
        if written:
            together([Work(target, lambda: self._apply(written))], meanwhile=lambda: keep_alive(source))
        if self.verified:
            self._compare(written)
        faults.fault_point(f"move:{name}:inside")
        target.commit()
        faults.fault_point(f"move:{name}:committed")
        self._move.meter.carried += count
        self._move.meter.lag = count
        return count

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
        cursor.execute(
            f"WITH taken AS (DELETE FROM {it.log(self._move.record.capture)} RETURNING *) "
            f"INSERT INTO {_keys(it)} SELECT DISTINCT * FROM taken"
        )
        count = int(cursor.rowcount)
        cursor.execute(f"ANALYZE {_keys(it)}")  # few keys are looked up in an index, many are not
        return count

    def _send(self, it: Captured) -> None:
        schema = self._move.record.schema
        self._relay.transfer(f"SELECT * FROM {_keys(it)}", _keys(it), it.table.binary)
        if it.table.insertable:
            columns = ", ".join(it.table.insertable)
            rows = f"SELECT {columns} FROM ONLY {quote(schema)}.{quote(it.table.name)} WHERE {_among(it)}"
            self._relay.transfer(rows, _rows(it), it.table.binary)

    def _apply(self, written: Sequence[Captured]) -> None:
        incoming = quote(self._move.record.incoming)
        with self._move.servers.target.cursor() as cursor:
            for it in written:
                cursor.execute(f"ANALYZE {_keys(it)}")
                cursor.execute(f"DELETE FROM ONLY {incoming}.{quote(it.table.name)} WHERE {_among(it)}")
            for it in written:
                columns = ", ".join(it.table.insertable)
                cursor.execute(
                    f"INSERT INTO {incoming}.{quote(it.table.name)} ({columns}) SELECT {columns} FROM {_rows(it)}"
                )

    def _compare(self, written: Sequence[Captured]) -> None:
        """Compare the rows that were carried over, before they are committed."""
        record, servers = self._move.record, self._move.servers
        found = []
        for connection, schema in ((servers.source, record.schema), (servers.target, record.incoming)):
            with connection.cursor() as cursor:
                cursor.execute(
                    " UNION ALL ".join(digest(schema, it.table, f" WHERE {_among(it)}") for it in written)
                    or "SELECT '', 0, 0 WHERE false"
                )
                found.append({name: (int(rows), int(total)) for name, rows, total in cursor.fetchall()})
        compare(record, *found)

    # -- around -----------------------------------------------------------------------------------------------------

    def _create_temporary_tables(self) -> None:
        record, source, target = self._move.record, self._move.servers.source, self._move.servers.target
        for connection, schema in ((source, record.schema), (target, record.incoming)):
            with connection.cursor() as cursor:
                for it in self._tables:
                    table = f"{quote(schema)}.{quote(it.table.name)}"
                    columns = {_keys(it): it.columns, _rows(it): ", ".join(it.table.insertable)}
                    for name, of in columns.items():
                        cursor.execute(
                            f"CREATE TEMPORARY TABLE {name.removeprefix('pg_temp.')} ON COMMIT DELETE ROWS "
                            f"AS SELECT {of} FROM {table} WITH NO DATA"
                        )
            connection.commit()

    def _vacuum(self) -> None:
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


def _keys(it: Captured) -> str:
    return f"pg_temp.shardpool_keys_{it.number}"


def _rows(it: Captured) -> str:
    return f"pg_temp.shardpool_rows_{it.number}"


def _among(it: Captured) -> str:
    return f"({it.columns}) IN (SELECT {it.columns} FROM {_keys(it)})"
