"""A bank in a keyspace, its writers, and those who are told of its changes."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shardpool import Reference, Router, Sharded
from tests.support.backends import plain_connection

DDL = """
CREATE TYPE mood AS ENUM ('fine', 'so so');
CREATE TABLE country (code text PRIMARY KEY, name text DEFAULT '?');
CREATE TABLE owners (id bigint PRIMARY KEY, name text, feels mood, extra jsonb, born date, shout text
    GENERATED ALWAYS AS (upper(name)) STORED);
CREATE TABLE accounts (owner bigint NOT NULL REFERENCES owners, number text, amount numeric(12,2) NOT NULL,
    PRIMARY KEY (owner, number));
"""
KINDS = {"country": Reference(), "owners": Sharded("id"), "accounts": Sharded("owner")}
TABLES = ("owners", "accounts", "country")
OWNERS = 60
#: What the two accounts of an owner always have together.
TOTAL = 100
SPEC: dict[str, Any] = {"job": "replicate", "name": "feed", "run": {"chunk_rows": 20, "workers": 3, "follow": False}}


def fill(router: Router) -> None:
    router.create_schema(DDL, KINDS)
    router.copy_into("country", [("de", "Germany"), ("fr", "France")])
    router.copy_into("owners", [(n, f"o\t{n}", "fine", {"n": [n, None]}, "1970-01-01") for n in range(OWNERS)])
    router.copy_into("accounts", [(n, name, TOTAL // 2) for n in range(OWNERS) for name in ("a\\", "b")])


class Teller(threading.Thread):
    """Writes until it is told to stop. The two accounts of an owner always have the same sum."""

    def __init__(self, router: Router, seed: int) -> None:
        super().__init__(name="teller")
        self._router, self._choose = router, random.Random(seed)
        self.stop = threading.Event()
        self.done = 0
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self._router.run(self._write)
                self.done += 1
        except BaseException as error:
            self.failed = error

    def _write(self, tx: Any) -> None:
        owner, amount = self._choose.randrange(OWNERS), self._choose.randrange(-9, 9)
        values = {"owner": owner, "amount": amount, "new": OWNERS + owner}
        match self._choose.randrange(6):
            case 5:
                tx.query("UPDATE country SET name = name || 'x' WHERE code = 'fr'")
            case 0:
                tx.execute(owner, "UPDATE owners SET name = name || 'x', feels = 'so so' WHERE id = :owner", values)
            case 1:
                tx.execute(OWNERS + owner, "INSERT INTO owners VALUES (:new, 'new') ON CONFLICT DO NOTHING", values)
            case 2:
                tx.execute(OWNERS + owner, "DELETE FROM owners WHERE id = :new", values)
            case 3:
                renamed = "UPDATE accounts SET number = CASE number WHEN 'c' THEN 'b' ELSE 'c' END "
                tx.execute(owner, renamed + "WHERE owner = :owner AND number IN ('b', 'c')", values)
            case _:
                first = "UPDATE accounts SET amount = amount + :amount WHERE owner = :owner AND number = E'a\\\\'"
                tx.execute(owner, first, values)
                second = "UPDATE accounts SET amount = amount - :amount WHERE owner = :owner AND number <> E'a\\\\'"
                tx.execute(owner, second, values)


@contextmanager
def writing(router: Router, seed: int) -> Iterator[Teller]:
    """Let a teller write while the block runs, and have begun before."""
    teller = Teller(router, seed)
    teller.start()
    try:
        while teller.done < 10 and teller.is_alive():
            teller.join(0.01)
        yield teller
    finally:
        teller.stop.set()
        teller.join()
    assert teller.failed is None


def rows_here(router: Router, table: str) -> list[str]:
    return sorted(row[0] for row in router.query(f"SELECT t::text FROM {table} t"))


def rows_there(url: str, query: str) -> list[str]:
    connection = plain_connection(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SET timezone = 'UTC'; {query}")
            return sorted(row for (row,) in cursor.fetchall())
    finally:
        connection.close()


def check_replicated(router: Router, url: str) -> None:
    router.refresh()
    for table in TABLES:
        assert (table, rows_there(url, f"SELECT t::text FROM {table} t")) == (table, rows_here(router, table))


def told_in_files(directory: Path) -> list[Mapping[str, Any]]:
    """What files tell: the copy, then the changes of each partition in the order of their numbers."""
    found = []
    for path in [*sorted(directory.glob("*/*.jsonl")), *sorted(directory.glob("changes/*/*.jsonl"))]:
        found += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return found


def folded(told: list[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The rows that are left when all that was told is done, in its order."""
    keys = {"owners": ("id",), "accounts": ("owner", "number")}
    state: dict[str, dict[tuple[Any, ...], str]] = {name: {} for name in keys}
    for it in told:
        row = it.get("row") or it["key"]
        key = tuple(row[name] for name in keys[it["table"]])
        if it["op"] == "delete":
            state[it["table"]].pop(key, None)
        else:
            state[it["table"]][key] = json.dumps(row, sort_keys=True, default=str)
    return {name: sorted(rows.values()) for name, rows in state.items()}


def rows_as_json(router: Router) -> dict[str, list[str]]:
    """The rows as files tell them: numeric values as text."""
    queries = {
        "owners": "SELECT id, name, feels::text AS feels, extra, born::text AS born FROM owners",
        "accounts": "SELECT owner, number, amount::text AS amount FROM accounts",
    }
    return {
        name: sorted(json.dumps(dict(row._mapping), sort_keys=True) for row in router.query(query))
        for name, query in queries.items()
    }
