"""Clients with maps of their own, while partitions move and movers die: no write lost or doubled, no read stale.

Each client remembers where partitions are, as a router does, and asks again only when PostgreSQL says 42P01. A counter
has one writer, who knows what it must be; readers know what it was at least when they asked.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from psycopg2 import errors

from shardpool.errors import MoveError
from shardpool.moves import capture, move_partition, move_status, online, recover_moves, rounds, runner, steps
from shardpool.moves.move import Move
from tests.faults.test_move_steps import POINTS
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Background, Mover, Place, eventually, schema
from tests.support.backends import databases

STALE = (errors.UndefinedTable, errors.InvalidSchemaName)
READ = "SELECT extra FROM plain WHERE customer_id = %s"
PREPARE = "PREPARE reading AS SELECT extra FROM plain WHERE customer_id = $1"
WRITE = "UPDATE plain SET extra = %s WHERE customer_id = %s"


class Client:
    """A client with a connection to each shard, and a map that may be old."""

    def __init__(self, place: Place, key: int, seed: int) -> None:
        self.place, self.key, self.chance = place, key, random.Random(seed)
        self.partition = place.router.partition_of(key).id
        self.shard = place.owner(self.partition)
        self.cursors: dict[str, Any] = {}

    def cursor(self) -> Any:
        """A cursor on the shard where the partition is believed to be, with a plan that may be old."""
        if self.shard not in self.cursors:
            cursor = self.cursors[self.shard] = self.place.connect(self.shard).cursor()
            cursor.execute(f"SET search_path TO {schema(self.partition)}, shop, public")
        cursor = self.cursors[self.shard]
        cursor.execute("SELECT 1 FROM pg_prepared_statements")
        if not cursor.rowcount:
            cursor.execute(PREPARE)
        return cursor

    def repeat(self, work: Callable[[Any], None]) -> None:
        """Do *work* until it meets the partition."""
        while True:
            try:
                return work(self.cursor())
            except STALE:
                self.cursors[self.shard].execute("ROLLBACK")
                self.shard = self.place.owner(self.partition)

    def read(self, cursor: Any) -> int:
        if self.chance.random() < 0.5:
            cursor.execute(f"EXECUTE reading ({self.key})")
        else:
            cursor.execute(READ, (self.key,))
        return int(cursor.fetchone()[0])

    def close(self) -> None:
        for cursor in self.cursors.values():
            cursor.connection.close()


class Writer(Client):
    """Counts up, and keeps a set of rows; it knows what PostgreSQL has acknowledged."""

    statements = ("", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN ISOLATION LEVEL SERIALIZABLE")

    def __init__(self, place: Place, key: int, seed: int) -> None:
        super().__init__(place, key, seed)
        self.acknowledged = 0
        self.rows: set[int] = set()

    def write(self, cursor: Any) -> None:
        begin = self.chance.choice(self.statements)
        if begin:
            cursor.execute(begin)
            assert self.read(cursor) == self.acknowledged, f"a stale read after {begin}"
        cursor.execute(WRITE, (self.acknowledged + 1, self.key))
        assert cursor.rowcount == 1
        rows = self._change_rows(cursor) if begin else self.rows
        if begin:
            cursor.execute("COMMIT")
        self.acknowledged += 1
        self.rows = rows

    def _change_rows(self, cursor: Any) -> set[int]:
        """Insert a row, or delete one; return which there will be."""
        if self.rows and self.chance.random() < 0.4:
            row = self.chance.choice(sorted(self.rows))
            cursor.execute("DELETE FROM audit WHERE customer_id = %s AND id = %s", (self.key, row))
            assert cursor.rowcount == 1, f"row {row} was acknowledged, and is not there"
            return self.rows - {row}
        row = self.acknowledged + 1000
        cursor.execute("INSERT INTO audit VALUES (%s, %s, 'ledger')", (self.key, row))
        return self.rows | {row}

    def check(self) -> None:
        """Ask the partition's owner itself."""
        cursor = self.place.connect(self.place.owner(self.partition)).cursor()
        cursor.execute(f"SET search_path TO {schema(self.partition)}")
        cursor.execute(READ, (self.key,))
        found = cursor.fetchall()
        cursor.execute("SELECT id FROM audit WHERE customer_id = %s AND what = 'ledger' ORDER BY 1", (self.key,))
        rows = [row for (row,) in cursor.fetchall()]
        cursor.connection.close()
        assert found == [(self.acknowledged,)], f"{found} of {self.acknowledged} acknowledged writes are there"
        assert rows == sorted(self.rows), "rows were lost, doubled, or came back"
        assert self.acknowledged > 0


class Watcher:
    """Asks the servers directly, again and again, who has a partition."""

    def __init__(self, place: Place) -> None:
        self.cursors = [place.connect(shard).cursor() for shard in sorted(place.config.shards)]
        self.seen = 0

    def look(self) -> None:
        # An owner that is gone when the second is asked makes no third: it came there after it had left the first.
        query = "SELECT nspname FROM pg_namespace WHERE nspname ~ '^shop_p[0-9]+$'"
        first, second = self.cursors if self.seen % 2 else self.cursors[::-1]
        first.execute(query)
        here = set(first.fetchall())
        second.execute(query)
        both = here & set(second.fetchall())
        if both:
            first.execute(query)  # it may have moved between the two questions
            both &= set(first.fetchall())
        assert not both, f"{both} have two owners"
        self.seen += 1

    def close(self) -> None:
        for cursor in self.cursors:
            cursor.connection.close()


class Reader(Client):
    def __init__(self, place: Place, writer: Writer, seed: int) -> None:
        super().__init__(place, writer.key, seed)
        self.writer = writer
        self.reads = 0

    def look(self, cursor: Any) -> None:
        cursor.execute(self.chance.choice(["BEGIN", "SELECT"]))
        for _ in range(4):
            at_least = self.writer.acknowledged
            assert self.read(cursor) >= at_least, "a stale read"
            self.reads += 1
        cursor.execute("ROLLBACK")


def run_ledger(place: Place, moves: int, seed: int, kills: bool = True) -> None:
    """Run clients, and so many moves; in three of ten the mover is killed at some point."""
    print(f"seed {seed}, {moves} moves")
    chance = random.Random(seed)
    keys = {place.router.partition_of(key).id: key for key in range(60)}
    for partition, key in keys.items():
        place.sql(place.owner(partition), f"UPDATE {schema(partition)}.plain SET extra = 0 WHERE customer_id = {key}")
        place.sql(place.owner(partition), f"DELETE FROM {schema(partition)}.audit WHERE what = 'ledger'")
    writers = [Writer(place, key, seed + key) for key in keys.values()]
    readers = [Reader(place, writer, seed + writer.key + 1) for writer in writers]
    ended = threading.Event()

    def loop(client: Client, work: Callable[[Any], None]) -> None:
        while not ended.is_set():
            client.repeat(work)

    def watch(watcher: Watcher) -> None:
        while not ended.is_set():
            watcher.look()

    clients = [Background(lambda it=it: loop(it, it.write)) for it in writers]
    clients += [Background(lambda it=it: loop(it, it.look)) for it in readers]
    watcher = Watcher(place)
    clients.append(Background(lambda: watch(watcher)))
    for number in range(moves):
        if any(client.done for client in clients):
            break  # one has failed
        partition = chance.choice(list(keys))
        if kills and number % 10 in (2, 5, 8):
            Mover(place.config, partition, place.other(partition), chance.choice(POINTS)).wait_killed()
            eventually(lambda: bool(recover_moves(place.router)) or not move_status(place.router), "it is settled")
            eventually(lambda: not recover_moves(place.router), "everything is settled")
        else:
            move_partition(place.router, partition, place.other(partition))
    ended.set()
    for background in clients:
        background.wait()
    for client in (*writers, *readers, watcher):
        client.close()
    for writer in writers:
        writer.check()
    assert all(reader.reads for reader in readers) and watcher.seen
    place.assert_clean()


def test_a_ledger(place: Place) -> None:
    run_ledger(place, moves=6, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_a_long_ledger(place: Place, seed: int) -> None:
    """A thousand moves."""
    run_ledger(place, moves=200, seed=seed)


# -- the checker is checked -------------------------------------------------------------------------------------------


def without_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    skip(monkeypatch, "fence")


def without_last_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds.Rounds, "run_locked", lambda self: 0)


def without_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_triggers", lambda *_: "SELECT 1")
    monkeypatch.setattr(online, "check_captured", lambda move: None)


def without_capture_and_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    without_capture(monkeypatch)
    monkeypatch.setattr(rounds, "compare", lambda *_: None)


def without_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written between the last round and the rename is lost."""
    skip(monkeypatch, "lock")
    widen(monkeypatch, "move:last:after")


def switched_on_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target has the partition's name before the source has lost it."""
    honest = online.last_round

    def last_round(move: Move) -> None:
        honest(move)
        with move.servers.target.cursor() as cursor:
            cursor.execute(f"ALTER SCHEMA {move.record.incoming} RENAME TO {move.record.schema}")
        move.servers.target.commit()
        time.sleep(0.05)

    replace_step(monkeypatch, "last", last_round)


def fenced_after_the_flip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog, and the target, give the partition away while the source still has it."""
    names = ["flip", "switch_on", "fence", "drain", "validate", "release"]
    by_name = {it.name: it for it in steps.STEPS["trigger"]}
    order = [it for it in steps.STEPS["trigger"] if it.name not in names]
    monkeypatch.setattr(runner, "STEPS", {"trigger": (*order, *(by_name[name] for name in names))})
    widen(monkeypatch, "move:switch_on:after")


def widen(monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """Give the others time at a point at which it should not matter."""

    def slowly(name: str) -> None:
        if name == point:
            time.sleep(0.1)

    monkeypatch.setattr("shardpool.faults.fault_point", slowly)


def skip(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    replace_step(monkeypatch, name, steps.nothing)


def replace_step(monkeypatch: pytest.MonkeyPatch, name: str, run: Callable[[Move], None]) -> None:
    changed = tuple(replace(it, run=run) if it.name == name else it for it in steps.STEPS["trigger"])
    monkeypatch.setattr(runner, "STEPS", {"trigger": changed})


@pytest.mark.parametrize(
    "broken",
    [
        without_fence,
        without_last_round,
        without_capture,
        without_capture_and_verification,
        without_lock,
        switched_on_too_early,
        fenced_after_the_flip,
    ],
)
def test_a_broken_move_is_noticed(
    server_urls: list[str], monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None]
) -> None:
    with databases(server_urls[:2]) as urls:
        own = Place(shop_config(urls, partitions=2))
        try:
            own.fill(customers=60)
            with pytest.raises((AssertionError, MoveError, errors.DuplicateSchema)):
                broken(monkeypatch)
                run_ledger(own, moves=12, seed=3, kills=False)
        finally:
            own.close()
