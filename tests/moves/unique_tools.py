"""Writers of every kind beside a column that becomes unique, and what must be true of its table then."""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from typing import Any

from shardpool import Router, Sharded
from shardpool.errors import StalePlacement
from shardpool.executor.transaction import Transaction
from shardpool.executor.writes import RETURNS_BOTH
from shardpool.jobs.digest import differing_reservations

#: Keys and values of each writer.
KEYS, VALUES = 10, 14
#: Rows that nobody writes have keys from here on.
STILL = 100_000


def make_table(router: Router, name: str, rows: int = 3000) -> None:
    """Create a table, with rows that nobody writes."""
    router.create_schema(
        f"CREATE TABLE {name} (id bigint PRIMARY KEY, email text, visits int DEFAULT 0)", {name: Sharded("id")}
    )
    router.query(f"INSERT INTO {name} SELECT {STILL} + n, 'still ' || n, 0 FROM generate_series(1, {rows}) n")


def emails(router: Router, name: str) -> dict[int, str | None]:
    return dict(router.query(f"SELECT id, email FROM {name} WHERE id < {STILL}").all())


def agrees(router: Router, name: str, reservations: str) -> list[str]:
    """Return what is wrong: the reservations are those of the rows, every value is there once."""
    rows = sorted(tuple(row) for row in router.query(f"SELECT email, id FROM {name} WHERE email IS NOT NULL"))
    reserved = sorted(tuple(row) for row in router.query(f"SELECT email, id FROM {reservations}"))
    wrong = []
    if rows != reserved:
        wrong.append(f"not reserved: {set(rows) - set(reserved)}; no rows: {set(reserved) - set(rows)}")
    if len({email for email, _ in rows}) < len(rows):
        wrong.append("a value is there twice")
    if differing_reservations(router.engines, router.topology):
        wrong.append("doctor sees a difference")
    return wrong


def state_of(router: Router, name: str) -> dict[str, Any]:
    """What the catalog and the shards have of unique columns."""
    router.refresh()
    table = router.topology.tables[name]
    with router.catalog.begin() as connection:
        builds = connection.exec_driver_sql("SELECT table_name, state FROM shardpool_catalog.unique_build").all()
    return {"unique": dict(table.unique), "building": dict(table.building), "builds": [tuple(it) for it in builds]}


class Writer(threading.Thread):
    """Writes rows of its own until it is told to stop; knows what they must be. Any error ends it, and is told."""

    def __init__(self, router: Router, table: str, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._router, self._table = router, table
        self._choose = random.Random(seed * 100 + number)
        self._keys = range(number * KEYS, (number + 1) * KEYS)
        self._values = [f"w{number} {value}" for value in range(VALUES)]
        self._enough = threading.Event()
        self.rows: dict[int, str | None] = {}
        self.done: dict[str, int] = {}
        self.error: BaseException | None = None

    def run(self) -> None:
        kinds = [self.add, self.change, self.remove, self.rekey, self.swap, self.load]
        try:
            if self._version() >= RETURNS_BOTH:
                kinds.append(self.upsert)
            while not self._enough.is_set():
                kind = self._choose.choice(kinds)
                if kind():
                    self.done[kind.__name__] = self.done.get(kind.__name__, 0) + 1
        except BaseException as error:
            self.error = error

    def end(self) -> dict[int, str | None]:
        self._enough.set()
        self.join(60)
        assert not self.is_alive(), "a writer hangs"
        if self.error is not None:
            raise self.error
        return self.rows

    def add(self) -> bool:
        if not (free := [key for key in self._keys if key not in self.rows]):
            return False
        key, email = self._choose.choice(free), self._value()
        words = f"INSERT INTO {self._table} (id, email) VALUES (:key, :email)"
        self._write(key, words, {"key": key, "email": email})
        self.rows[key] = email
        return True

    def change(self) -> bool:
        if not self.rows:
            return False
        key, email = self._choose.choice(list(self.rows)), self._value()
        words = f"UPDATE {self._table} SET email = :email, visits = visits + 1 WHERE id = :key"
        assert self._write(key, words, {"key": key, "email": email}) == 1
        self.rows[key] = email
        return True

    def remove(self) -> bool:
        if not self.rows:
            return False
        key = self._choose.choice(list(self.rows))
        assert self._write(key, f"DELETE FROM {self._table} WHERE id = :key", {"key": key}) == 1
        del self.rows[key]
        return True

    def upsert(self) -> bool:
        key, email = self._choose.choice(self._keys), self._value()
        words = (
            f"INSERT INTO {self._table} (id, email) VALUES (:key, :email) ON CONFLICT (id) DO UPDATE "
            "SET email = excluded.email"
        )
        self._router.query(words, {"key": key, "email": email})
        self.rows[key] = email
        return True

    def rekey(self) -> bool:
        """A row goes to the partition of another key."""
        free = [key for key in self._keys if key not in self.rows]
        if not self.rows or not free:
            return False
        key, new = self._choose.choice(list(self.rows)), self._choose.choice(free)
        words = f"UPDATE {self._table} SET id = :new WHERE id = :key"
        assert self._router.query(words, {"key": key, "new": new}).rowcount == 1  # type: ignore[attr-defined]
        self.rows[new] = self.rows.pop(key)
        return True

    def swap(self) -> bool:
        """A value goes from one row to another, in a transaction over shards."""
        if len(self.rows) < 2:
            return False
        one, other = self._choose.sample(list(self.rows), 2)
        words = f"UPDATE {self._table} SET email = :email WHERE id = :key"

        def work(tx: Transaction) -> None:
            tx.execute(one, words, {"key": one, "email": None})
            tx.execute(other, words, {"key": other, "email": self.rows[one]})

        self._router.run(work)
        self.rows[other], self.rows[one] = self.rows[one], None
        return True

    def load(self) -> bool:
        free = [key for key in self._keys if key not in self.rows][:2]
        values = [value for value in self._values if value not in self.rows.values()]
        rows = [(key, value, 0) for key, value in zip(free, values, strict=False)]
        if not rows or self._choose.random() < 0.5:
            return False
        with suppress(StalePlacement):  # as beneath a move: to be loaded again by who has the rows
            self._router.copy_into(self._table, rows)
            self.rows |= {key: value for key, value, _ in rows}
        return True

    def _version(self) -> int:
        return int(self._router.execute(0, "SELECT current_setting('server_version_num')").scalar_one())

    def _value(self) -> str | None:
        """One that no row of this writer has; or none."""
        free = [value for value in self._values if value not in self.rows.values()]
        return self._choose.choice([*free, None])

    def _write(self, key: int, words: str, values: dict[str, Any]) -> int:
        if self._choose.random() < 0.5:
            return int(self._router.query(words, values).rowcount)  # type: ignore[attr-defined]
        return int(self._router.execute(key, words, values).rowcount)  # type: ignore[attr-defined]


class Late:
    """A router that is frozen between choosing where its statements go and sending them, until `thaw`."""

    def __init__(self, router: Router) -> None:
        self._gate, self._reached = threading.Event(), threading.Event()
        self._send = router._statements.on_shard
        router._statements.on_shard = self._wait  # type: ignore[method-assign, assignment]

    def _wait(self, *given: Any) -> Any:
        self._reached.set()
        assert self._gate.wait(120)
        return self._send(*given)

    def reached(self) -> None:
        assert self._reached.wait(30)

    def thaw(self) -> None:
        self._gate.set()
