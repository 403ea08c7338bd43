"""Clients with maps of their own, while partitions move and movers die: no write lost or doubled, no read stale.

Each client remembers where partitions are, as a router does, and asks again only when PostgreSQL says 42P01. A counter
has one writer, who knows what it must be; readers know what it was at least when they asked.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from psycopg2 import errors

from shardpool.moves import move_partition, move_status, recover_moves
from tests.faults.test_move_steps import POINTS
from tests.moves.move_tools import Background, Mover, Place, eventually, schema

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
    acknowledged = 0
    statements = ("", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN ISOLATION LEVEL SERIALIZABLE")

    def write(self, cursor: Any) -> None:
        begin = self.chance.choice(self.statements)
        if begin:
            cursor.execute(begin)
            assert self.read(cursor) == self.acknowledged, f"a stale read after {begin}"
        cursor.execute(WRITE, (self.acknowledged + 1, self.key))
        assert cursor.rowcount == 1
        if begin:
            cursor.execute("COMMIT")
        self.acknowledged += 1


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


def run_ledger(place: Place, rounds: int, seed: int) -> None:
    """Run clients, and so many moves; in three of ten the mover is killed at some point."""
    chance = random.Random(seed)
    keys = {place.router.partition_of(key).id: key for key in range(60)}
    for partition, key in keys.items():
        place.sql(place.owner(partition), f"UPDATE {schema(partition)}.plain SET extra = 0 WHERE customer_id = {key}")
    writers = [Writer(place, key, seed + key) for key in keys.values()]
    readers = [Reader(place, writer, seed + writer.key + 1) for writer in writers]
    ended = threading.Event()

    def loop(client: Client, work: Callable[[Any], None]) -> None:
        while not ended.is_set():
            client.repeat(work)

    clients = [Background(lambda it=it: loop(it, it.write)) for it in writers]
    clients += [Background(lambda it=it: loop(it, it.look)) for it in readers]
    for number in range(rounds):
        if any(client.done for client in clients):
            break  # one has failed
        partition = chance.choice(list(keys))
        if number % 10 in (2, 5, 8):
            Mover(place.config, partition, place.other(partition), chance.choice(POINTS)).wait_killed()
            eventually(lambda: bool(recover_moves(place.router)) or not move_status(place.router), "it is settled")
            eventually(lambda: not recover_moves(place.router), "everything is settled")
        else:
            move_partition(place.router, partition, place.other(partition))
    ended.set()
    for background in clients:
        background.wait()
    for client in (*writers, *readers):
        client.close()
    for writer in writers:
        found = place.sql(
            place.owner(writer.partition),
            f"SELECT extra FROM {schema(writer.partition)}.plain WHERE customer_id = {writer.key}",
        )
        assert found == [(writer.acknowledged,)]
        assert writer.acknowledged > 0
    assert all(reader.reads for reader in readers)
    place.assert_clean()


def test_a_ledger(place: Place) -> None:
    run_ledger(place, rounds=6, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_a_long_ledger(place: Place, seed: int) -> None:
    run_ledger(place, rounds=200, seed=seed)
