"""Clients with maps of their own, while partitions move, split and merge, and movers die: no write lost or doubled, no
read stale.

Each client remembers where partitions are, as a router does, and asks again only when PostgreSQL says 42P01. A counter
has one writer, who knows what it must be; readers know what it was at least when they asked.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import pytest
from psycopg2 import errors
from sqlalchemy import text

from shardpool import Config, Router
from shardpool.errors import MoveError
from shardpool.moves import (
    ChangePlan,
    change,
    change_partitions,
    create,
    move_partition,
    move_status,
    online,
    plan_merge,
    plan_pin,
    plan_split,
    plan_unpin,
    recover_moves,
    rounds,
    runner,
    steps,
    triggers,
)
from shardpool.moves.journal import Journal
from shardpool.moves.modes import Wanted
from shardpool.moves.move import Move
from shardpool.moves.record import MoveRecord
from shardpool.topology.key import KeyType, hash_key
from tests.faults.test_move_steps import POINTS
from tests.moves.change_tools import partition_ids
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Background, Mover, Place, schema
from tests.support.backends import databases
from tests.support.waiting import eventually

STALE = (errors.UndefinedTable, errors.InvalidSchemaName)
#: Writers whose keys a merge has brought together may conflict under SERIALIZABLE: nothing has happened.
AGAIN = (*STALE, errors.SerializationFailure)
READ = "SELECT extra FROM plain WHERE customer_id = %s"
PREPARE = "PREPARE reading AS SELECT extra FROM plain WHERE customer_id = $1"
WRITE = "UPDATE plain SET extra = %s WHERE customer_id = %s"


class Client:
    """A client with a connection to each shard, and a map that may be old."""

    def __init__(self, place: Place, key: int, seed: int) -> None:
        self.place, self.key, self.chance = place, key, random.Random(seed)
        self.cursors: dict[tuple[str, int], Any] = {}
        self.look_up()

    def look_up(self) -> None:
        """Ask the catalog where the key is."""
        self.place.router.refresh()
        shard_map = self.place.router.shard_map
        found = shard_map.at(hash_key(self.key, (KeyType.INTEGER,)))
        self.partition, self.shard = found.partition.id, found.shard

    def cursor(self) -> Any:
        """A cursor on the shard where the partition is believed to be, with a plan that may be old."""
        where = self.shard, self.partition
        if where not in self.cursors:
            cursor = self.cursors[where] = self.place.connect(self.shard).cursor()
            cursor.execute(f"SET search_path TO {schema(self.partition)}, shop, public")
        cursor = self.cursors[where]
        cursor.execute("SELECT 1 FROM pg_prepared_statements")
        if not cursor.rowcount:
            cursor.execute(PREPARE)
        return cursor

    def repeat(self, work: Callable[[Any], None]) -> None:
        """Do *work* until it meets the partition."""
        while True:
            try:
                return work(self.cursor())
            except AGAIN:
                self.cursors[self.shard, self.partition].execute("ROLLBACK")
                self.look_up()

    def read(self, cursor: Any) -> int:
        if self.chance.random() < 0.5:
            cursor.execute(f"EXECUTE reading ({self.key})")
        else:
            cursor.execute(READ, (self.key,))
        found = cursor.fetchone()
        assert found is not None, "a row that was acknowledged is not there"
        return int(found[0])

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
        self.look_up()
        cursor = self.place.connect(self.shard).cursor()
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
    """Asks the servers directly, again and again, who has which hashes."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.cursors = [place.connect(shard).cursor() for shard in sorted(place.config.shards)]
        self.ranges: dict[int, tuple[int, int]] = {}
        self.seen = 0

    def look(self) -> None:
        # An owner that is gone when the second is asked makes no third: it came there after it had left the first.
        first, second = self.cursors if self.seen % 2 else self.cursors[::-1]
        here, there = self.schemas(first), self.schemas(second)
        both = self.overlaps(here, there)
        if both:
            both = self.overlaps(self.schemas(first) & here, there)  # it may have moved between the two questions
        assert not both, f"{both} own the same hashes"
        assert not (twice := self.overlaps(here, here)), f"{twice} own the same hashes"
        self.seen += 1

    def schemas(self, cursor: Any) -> set[int]:
        cursor.execute("SELECT substr(nspname, 7)::int FROM pg_namespace WHERE nspname ~ '^shop_p[0-9]+$'")
        return {number for (number,) in cursor.fetchall()}

    def overlaps(self, here: set[int], there: set[int]) -> list[tuple[int, int]]:
        if not here | there <= self.ranges.keys():
            rows = self.place.catalog("SELECT id, low, high FROM shardpool_catalog.partition")
            self.ranges = {number: (low, high) for number, low, high in rows}
        return [
            (one, other)
            for one in here
            for other in there
            if (one != other or here is not there)
            and max(self.ranges[one][0], self.ranges[other][0]) < min(self.ranges[one][1], self.ranges[other][1])
        ]

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


class RouterProcess:
    """A router in a process of its own, without notices: it writes and reads by its map, and is frozen now and then."""

    def __init__(self, place: Place, key: int) -> None:
        context = multiprocessing.get_context("forkserver")
        self.place, self.key, self.ended = place, key, context.Event()
        self.acknowledged = context.Value("q", 0)
        self.process = context.Process(
            target=_count_up, args=(place.config, key, self.ended, self.acknowledged), daemon=True
        )
        self.process.start()
        atexit.register(self.process.kill)
        eventually(lambda: self.acknowledged.value > 0, "the router writes")

    def signal(self, number: int) -> None:
        assert self.process.pid is not None and self.process.exitcode is None, "a router's history is wrong, see above"
        os.kill(self.process.pid, number)

    def check(self) -> None:
        self.signal(signal.SIGCONT)
        self.ended.set()
        self.process.join(30)
        assert self.process.exitcode == 0, "a router's history is wrong, see above"
        found = self.place.router.execute(self.key, READ.replace("%s", str(self.key))).scalars().all()
        assert found == [self.acknowledged.value] and found[0] > 0


def _count_up(config: Config, key: int, ended: Any, acknowledged: Any) -> None:
    with Router(config, listen=False) as router:
        while not ended.is_set():
            number = acknowledged.value + 1
            values = {"n": number, "k": key}
            changed = router.execute(
                key, "UPDATE plain SET extra = :n WHERE customer_id = :k AND extra = :n - 1", values
            )
            assert changed.rowcount == 1, f"write {number} hit {changed.rowcount} rows"  # type: ignore[attr-defined]
            acknowledged.value = number
            read = router.execute(key, "SELECT extra FROM plain WHERE customer_id = :k", {"k": key}).scalars().all()
            assert read == [number], f"read {read} after {number} was acknowledged"


def run_ledger(
    place: Place,
    moves: int,
    seed: int,
    kills: bool = True,
    changes: bool = False,
    frozen: bool = False,
    modes: Sequence[Wanted] = ("trigger",),
) -> None:
    """Run clients, and so many moves; in three of ten the mover is killed at some point.

    Moves take one of *modes* by chance. With *changes* half of the moves are splits, merges, pins and unpins. With
    *frozen* there is a router that is stopped while moves pass, and then goes on with its map and its statement.
    """
    print(f"seed {seed}, {moves} moves")
    chance = random.Random(seed)
    place.router.refresh()
    keys = {place.router.partition_of(key).id: key for key in range(59)}
    hot = 59  # the key that is pinned, and the router's
    for key in (*keys.values(), hot):
        place.router.execute(key, "UPDATE plain SET extra = 0 WHERE customer_id = :k", {"k": key})
        place.router.execute(key, "DELETE FROM audit WHERE what = 'ledger' AND customer_id = :k", {"k": key})
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
    with ExitStack() as stack:
        routers = [RouterProcess(place, hot)] if frozen else []
        for router in routers:
            stack.callback(router.process.kill)
        move_about(place, moves, chance, clients, routers, kills, changes, hot, modes)
        ended.set()
        for background in clients:
            background.wait()
        others: list[Client | Watcher] = [*writers, *readers, watcher]
        for client in others:
            client.close()
        for writer in writers:
            writer.check()
        for router in routers:
            router.check()
    assert all(reader.reads for reader in readers) and watcher.seen
    place.assert_clean()


def move_about(
    place: Place,
    moves: int,
    chance: random.Random,
    clients: list[Background],
    routers: list[RouterProcess],
    kills: bool,
    changes: bool,
    hot: int,
    modes: Sequence[Wanted],
) -> None:
    """Make the moves and changes of a ledger, until a client has failed."""
    for number in range(moves):
        if any(client.done for client in clients):
            break  # one has failed
        for router in routers:
            router.signal(signal.SIGSTOP if number % 2 else signal.SIGCONT)
        plan = some_change(place, chance, hot) if changes and chance.random() < 0.5 else None
        partition, mode = chance.choice(partition_ids(place)), chance.choice(modes)
        if kills and number % 10 in (2, 5, 8):
            to = place.other(partition)
            Mover(place.config, partition, to, chance.choice(POINTS), mode=mode, plan=plan).wait_killed()
            eventually(lambda: bool(recover_moves(place.router)) or not move_status(place.router), "it is settled")
            eventually(lambda: not recover_moves(place.router), "everything is settled")
        elif plan is not None:
            change_partitions(place.router, plan, mode=mode)
        else:
            move_partition(place.router, partition, place.other(partition), mode=mode)


def some_change(place: Place, chance: random.Random, hot: int) -> ChangePlan:
    """A change by chance: partitions become more until there are ten, and fewer until there are three."""
    place.router.refresh()
    partitions = place.router.shard_map.partitions
    at = chance.randrange(len(partitions))
    to = chance.choice([None, *sorted(place.config.shards)])
    pinned = place.router.partition_of(hot)
    if pinned.high - pinned.low == 1 and chance.random() < 0.3:
        return plan_unpin(place.router, pinned.id, to)
    if len(partitions) > 3 and chance.random() < len(partitions) / 12:
        neighbours = [it.id for it in partitions[max(at - 1, 0) : max(at - 1, 0) + 2]]
        return plan_merge(place.router, neighbours, to)
    if pinned.high - pinned.low > 1 and chance.random() < 0.3:
        return plan_pin(place.router, hot, to)
    largest = max(partitions, key=lambda it: it.high - it.low)
    chosen = partitions[at] if partitions[at].high - partitions[at].low > 1 else largest
    return plan_split(place.router, chosen.id, chance.randrange(chosen.low + 1, chosen.high), to)


@pytest.mark.parametrize("mode", ["trigger", "logical"])
def test_a_ledger(place: Place, mode: Wanted) -> None:
    run_ledger(place, moves=4, seed=1, modes=[mode])


@pytest.fixture
def changing(server_urls: list[str]) -> Iterator[Place]:
    with databases(server_urls[:2]) as urls:
        own = Place(shop_config(urls))
        try:
            own.fill()
            yield own
        finally:
            own.close()


def test_a_ledger_beside_splits_and_merges(changing: Place) -> None:
    run_ledger(changing, moves=3, seed=11, changes=True, frozen=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 15))
def test_a_long_ledger_beside_splits_and_merges(changing: Place, seed: int) -> None:
    run_ledger(changing, moves=60, seed=seed, changes=True, frozen=True, modes=["trigger", "logical"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_a_long_ledger(place: Place, seed: int) -> None:
    """A thousand moves."""
    run_ledger(place, moves=200, seed=seed, modes=["trigger", "logical"])


# -- the checker is checked -------------------------------------------------------------------------------------------


def without_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    skip(monkeypatch, "fence")


def without_last_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds.Rounds, "run_locked", lambda self: 0)


def without_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "_triggers", lambda *_: "SELECT 1")
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


@pytest.mark.parametrize("again", [False, True])
def test_an_id_that_is_used_again_is_noticed(changing: Place, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    """Why a split gives new numbers to both parts: a client with an old map would find the old name, and fewer rows."""
    split = plan_split(changing.router, 0)
    middle = split.pieces[1].low
    key = next(key for key in range(59) if middle <= hash_key(key, (KeyType.INTEGER,)) < split.pieces[1].high)
    changing.router.execute(key, "UPDATE plain SET extra = 0 WHERE customer_id = :k", {"k": key})
    writer = Writer(changing, key, 1)
    writer.repeat(writer.write)
    if again:
        use_an_id_again(monkeypatch)
    change_partitions(changing.router, split)
    if again:
        with pytest.raises(AssertionError):
            writer.repeat(writer.write)
    else:
        writer.repeat(writer.write)
        writer.check()
    writer.close()


def use_an_id_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part keeps the number of the whole; what refuses that is switched off."""
    register, replace_partitions = Journal.register_change, Journal._replace

    def register_again(self: Journal, *arguments: Any) -> MoveRecord:
        record = register(self, *arguments)
        targets = [dict(it) for it in record.detail["targets"]]
        targets[0]["partition"] = record.partition
        return replace(record, detail={**record.detail, "targets": targets})

    def replace_again(self: Journal, connection: Any, record: MoveRecord, epoch: int) -> None:
        replace_partitions(self, connection, record, epoch)
        low, high = record.bounds[record.partition]
        query = "UPDATE shardpool_catalog.partition SET low = :low, high = :high WHERE id = :id"
        connection.execute(text(query), {"low": low, "high": high, "id": record.partition})

    monkeypatch.setattr(Journal, "register_change", register_again)
    monkeypatch.setattr(Journal, "_replace", replace_again)
    monkeypatch.setattr(change, "move_locked", lambda *_, **__: nullcontext())
    monkeypatch.setattr(create, "schemas_of", lambda *_: set())
