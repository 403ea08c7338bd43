"""Moves whose writers go on: what they write at any moment reaches the target, and they wait only for the cutover."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg2 import errors
from sqlalchemy.engine import make_url

from shardpool import Sharded
from shardpool.bulk import pace, throttle
from shardpool.bulk.watcher import Watcher
from shardpool.config import MoveConfig
from shardpool.errors import CutoverTimeout, DigestMismatch, MoveError, MoveTakenOver, PreflightFailed
from shardpool.moves import (
    abort_move,
    fence,
    lock,
    modes,
    move_partition,
    move_status,
    recover_moves,
    rounds,
    uniques,
    verify,
)
from shardpool.moves.layout import TableLayout
from shardpool.moves.move import Move
from shardpool.moves.record import Mode
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Background, Gates, Mover, Place, schema
from tests.support.backends import databases, plain_connection
from tests.support.waiting import eventually

#: Where writers write: between any two things that the move does.
POINTS = (
    *("capture:inside", "capture:after", "copy:inside", "copy:after"),
    *("finish:after", "verify:after", "round:inside"),
)
LATE = "move:catch_up:after"

FEATURES = """
SELECT c.relname, k.conname, pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint')
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE c.relnamespace = '{schema}'::regnamespace
UNION ALL SELECT c.relname, t.tgname, t.tgenabled::text, '' FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE NOT t.tgisinternal AND c.relnamespace = '{schema}'::regnamespace ORDER BY 1, 2
"""


#: A text that is stored out of line.
LONG = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 400) i)"


class Scribe:
    """Writes everything that can be written into partition 0, by seed."""

    def __init__(self, place: Place, seed: int) -> None:
        self.chance = random.Random(seed)
        self.keys = [key for key in range(400) if place.router.partition_of(key).id == 0]
        self.place = place

    def statements(self) -> list[str]:
        key, other = self.chance.sample(self.keys, 2)
        number = self.chance.randrange(1000)
        new = f"INSERT INTO customers VALUES ({key}, 'new', 'de') ON CONFLICT DO NOTHING"
        order = (
            f"INSERT INTO orders VALUES ({key}, {number}, {number}, DEFAULT, NULL, 'o{number}') ON CONFLICT DO NOTHING"
        )
        return self.chance.choice(
            [
                [new, order],
                [new, order, f"UPDATE orders SET parent = {number} WHERE customer_id = {key}"],
                [f"UPDATE customers SET name = 'n{number}', mood = 'good' WHERE customer_id = {key}"],
                [f"DELETE FROM customers WHERE customer_id = {key}"],  # and its orders
                # a key that is another's now, and unique values that change places
                [f"UPDATE orders SET id = id + {number + 1000} WHERE customer_id = {key}"],
                [
                    f"UPDATE orders SET note = 'free' WHERE customer_id = {key} AND id = 0",
                    f"UPDATE orders SET note = 'n0' WHERE customer_id = {key} AND id = 1",
                    f"UPDATE orders SET note = 'n1' WHERE customer_id = {key} AND id = 0",
                ],
                [f"INSERT INTO plain VALUES ({key}, {LONG}, {number})"] * 2,
                [f"UPDATE plain SET extra = {number} WHERE customer_id = {key}"],  # its long text stays as it is
                [f"DELETE FROM plain WHERE customer_id = {key}"],
                [f"UPDATE plain SET customer_id = {other} WHERE customer_id = {key} AND extra > {number}"],
                [f"DELETE FROM things WHERE customer_id = {key}"],
                [f"INSERT INTO things (customer_id, id, f8) VALUES ({key}, {number}, 'NaN') ON CONFLICT DO NOTHING"],
                ["INSERT INTO plain VALUES (0, 'rolled back')", "SAVEPOINT s", "DELETE FROM plain", "ROLLBACK"],
            ]
        )

    def write(self) -> None:
        with self.place.session(self.place.owner(0), 0) as cursor:
            for _ in range(self.chance.randrange(1, 6)):
                try:
                    cursor.execute("BEGIN ISOLATION LEVEL " + self.chance.choice(["READ COMMITTED", "SERIALIZABLE"]))
                    for statement in self.statements():
                        cursor.execute(statement)
                    cursor.execute("COMMIT")
                except errors.IntegrityError:
                    cursor.execute("ROLLBACK")


def written_at(monkeypatch: pytest.MonkeyPatch, points: dict[str, Callable[[], object]]) -> None:
    """Have something done at points of the move, while it stands there."""

    def reach(name: str) -> None:
        if name in points:
            points[name]()

    monkeypatch.setattr("shardpool.faults.fault_point", reach)


@pytest.mark.parametrize("mode", ["trigger", "logical"])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_written_meanwhile_arrives(
    place: Place, monkeypatch: pytest.MonkeyPatch, mode: Mode, seed: int
) -> None:
    scribe, source, target = Scribe(place, seed), place.owner(0), place.other(0)
    place.router.create_schema("COMMENT ON CONSTRAINT parent_fk ON orders IS 'it''s its own'")
    features = place.sql(source, FEATURES.format(schema=schema(0)))
    expected: list[str] = []

    def last() -> None:
        scribe.write()
        expected.append(place.digest(source, schema(0)))

    written_at(monkeypatch, {**{f"move:{it}": scribe.write for it in POINTS}, LATE: last})
    report = move_partition(place.router, 0, target, mode=mode)
    assert report.mode == mode and report.leftovers == ()
    assert place.digest(target, schema(0)) == expected[-1]
    assert place.sql(target, FEATURES.format(schema=schema(0))) == features
    place.assert_clean()


KEYS = """
CREATE TABLE keyed (
    customer_id bigint, a int, b int, PRIMARY KEY (customer_id, a), CONSTRAINT "odd ""key" UNIQUE (customer_id, b)
        DEFERRABLE INITIALLY DEFERRED
);
COMMENT ON CONSTRAINT "odd ""key" ON keyed IS 'it''s kept';
ALTER TABLE keyed ADD CONSTRAINT filled UNIQUE (customer_id, a, b) WITH (fillfactor = 70);
ALTER TABLE keyed ADD CONSTRAINT wide UNIQUE (customer_id, b, a) INCLUDE (a)
"""


def test_unique_constraints_are_as_they_were(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are built after the copy; those that a definition does not wholly tell were not touched."""
    place.router.create_schema(KEYS, {"keyed": Sharded("customer_id")})
    key, source = next(key for key in range(60) if place.router.partition_of(key).id == 1), place.owner(1)
    place.sql(source, f"INSERT INTO {schema(1)}.keyed SELECT {key}, i, -i FROM generate_series(1, 1000) i")
    features = (
        f"SELECT conname, pg_get_constraintdef(oid), obj_description(oid), condeferred FROM pg_constraint "
        f"WHERE conrelid = '{schema(1)}.keyed'::regclass AND contype <> 'n' ORDER BY 1",
        f"SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = '{schema(1)}' ORDER BY 1",
    )
    before = [place.sql(source, query) for query in features]
    dropped: list[str] = []
    honest = uniques._rebuild

    def rebuild(connection: Any, table: str) -> Callable[[], None]:
        run = honest(connection, table)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass", (table,))
            dropped.append(f"{table.split('.')[-1]} keeps {cursor.fetchone()[0]}")
        return run

    monkeypatch.setattr(uniques, "_rebuild", rebuild)
    move_partition(place.router, 1, place.other(1), mode="trigger")
    assert '"keyed" keeps 1' in dropped
    assert [place.sql(place.owner(1), query) for query in features] == before
    place.router.create_schema("DROP TABLE keyed")
    place.assert_clean()


def test_truncate_is_refused_while_it_moves(place: Place, gates: Gates) -> None:
    source = place.owner(0)
    gates.close("move:copy:inside")
    moving = Background(lambda: move_partition(place.router, 0, place.other(0), mode="trigger"))
    gates.wait_for("move:copy:inside")
    with pytest.raises(errors.ObjectInUse, match="TRUNCATE cannot be followed") as caught:
        place.sql(source, "TRUNCATE shop_p0000.plain")
    assert "partition 0 is being moved" in str(caught.value)
    gates.open_all()
    moving.wait()
    place.sql(place.owner(0), "BEGIN; TRUNCATE shop_p0000.plain; ROLLBACK")


def test_writers_need_no_rights_on_the_log(place: Place, gates: Gates) -> None:
    """Nor can what is on their search path, or a switch for replication, change what is noted."""
    source, role = place.owner(0), f"writer_{uuid.uuid4().hex[:8]}"
    key = next(key for key in range(60) if place.router.partition_of(key).id == 0)
    for shard in place.config.shards:
        place.sql(shard, f"CREATE ROLE {role}")
    place.sql(source, f"GRANT USAGE, CREATE ON SCHEMA {schema(0)} TO {role}; GRANT ALL ON {schema(0)}.plain TO {role}")
    gates.close("move:copy:inside")
    moving = Background(lambda: move_partition(place.router, 0, place.other(0), mode="trigger"))
    gates.wait_for("move:copy:inside")
    with place.session(source, 0) as cursor:
        cursor.execute(f"SET ROLE {role}")
        cursor.execute(f"UPDATE plain SET extra = 41 WHERE customer_id = {key}")
        cursor.execute("RESET ROLE; SET session_replication_role = replica")
        cursor.execute(f"UPDATE plain SET extra = extra + 1 WHERE customer_id = {key}")
    gates.open_all()
    moving.wait()
    found = place.sql(place.owner(0), f"SELECT DISTINCT extra FROM {schema(0)}.plain WHERE customer_id = {key}")
    assert found == [(42,)]
    for shard in place.config.shards:
        place.sql(shard, f"DROP OWNED BY {role}; DROP ROLE {role}")


# -- the checker is checked -------------------------------------------------------------------------------------------


def spoil(place: Place, statement: str) -> Callable[[], None]:
    """Do something to what is noted on the source, and write a row then."""
    source = place.owner(0)
    key = next(key for key in range(60) if place.router.partition_of(key).id == 0)

    def run() -> None:
        ((log,),) = place.sql(source, "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%capture%'")
        place.sql(source, statement.format(log=log))
        place.sql(source, f"UPDATE shop_p0000.plain SET extra = coalesce(extra, 0) + 1 WHERE customer_id = {key}")

    return run


SILENT = "CREATE OR REPLACE FUNCTION {log}.note_5() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
DROPPED = "DROP TRIGGER shardpool_capture_rows ON shop_p0000.plain"
DISABLED = "ALTER TABLE shop_p0000.plain DISABLE TRIGGER ALL"


@pytest.mark.parametrize(
    ("statement", "point", "error"),
    [
        (SILENT, "move:copy:after", DigestMismatch),
        (DROPPED, "move:copy:after", DigestMismatch),
        (DROPPED, "move:verify:after", MoveError),
        (DISABLED, "move:verify:after", MoveError),
    ],
)
def test_capture_that_is_off_is_noticed(
    place: Place, monkeypatch: pytest.MonkeyPatch, statement: str, point: str, error: type[Exception]
) -> None:
    written_at(monkeypatch, {point: spoil(place, statement)})
    with pytest.raises(error) as caught:
        move_partition(place.router, 0, place.other(0), mode="trigger")
    assert "plain" in str(caught.value) or "triggers that note writes" in str(caught.value)
    place.sql(place.owner(0), "ALTER TABLE shop_p0000.plain ENABLE TRIGGER ALL")
    place.assert_clean()


@pytest.mark.parametrize("point", ["move:verify:before", "move:catch_up:after"])
def test_a_round_that_loses_a_row_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """Before the lock or under it."""
    key = next(key for key in range(60) if place.router.partition_of(key).id == 0)
    write = f"UPDATE shop_p0000.customers SET name = 'changed' WHERE customer_id = {key}"
    source, honest = place.owner(0), rounds._apply

    def lossy(leg: Move, written: object) -> None:
        honest(leg, written)  # type: ignore[arg-type]
        with leg.servers.target.cursor() as cursor:
            cursor.execute(f"UPDATE {leg.record.incoming}.customers SET name = 'other' WHERE name = 'changed'")

    monkeypatch.setattr(rounds, "_apply", lossy)
    written_at(monkeypatch, {point: lambda: place.sql(source, write)})
    with pytest.raises(DigestMismatch, match=r"customers: .* but not the same ones"):
        move_partition(place.router, 0, place.other(0), mode="trigger")
    place.assert_clean()


def test_without_verification_a_lossy_copy_would_go_through(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the digests are what stands between a fault and a lost row."""
    before = place.contents()
    monkeypatch.setattr("shardpool.moves.rounds.compare", lambda *_: None)

    def lossy(schema_name: str, table: TableLayout) -> str:
        columns = ", ".join("'lost'" if name == "payload" else name for name in table.insertable)
        return f'SELECT {columns} FROM {schema_name}."{table.name.replace(chr(34), chr(34) * 2)}"'

    monkeypatch.setattr("shardpool.moves.relay.select_rows", lossy)
    move_partition(place.router, 0, place.other(0), mode="trigger")
    assert place.contents() != before


# -- the cutover ------------------------------------------------------------------------------------------------------


def test_a_cutover_that_takes_too_long_is_undone_and_tried_again(
    place: Place, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.router, "config", replace(place.config, moves=MoveConfig(cutover_timeout=0.3)))
    source, target, before = place.owner(0), place.other(0), place.contents()
    gates.close("move:fence:after")
    moving = Background(lambda: move_partition(place.router, 0, target, mode="trigger"))
    gates.wait_for("move:fence:after")
    # Statements wait, and go on where they were.
    waiting = Background(lambda: place.router.query("SELECT count(*) FROM customers").scalar_one())
    place.sql(source, "SELECT pg_sleep(0.4)")
    assert not waiting.done
    gates.open_all()
    moving.wait()
    waiting.wait()
    assert gates.seen.count("move:fence:after") == 2 and gates.seen.count("move:flip:after") == 1
    assert place.owner(0) == target and place.contents() == before
    place.assert_clean()


def test_writers_do_not_queue_behind_a_long_transaction(
    place: Place, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The move waits for it without asking for the lock, and goes on when it ends."""
    monkeypatch.setattr(lock, "OLD_PATIENCE", 0.1)
    monkeypatch.setattr("shardpool.moves.cutover.LONGEST_PAUSE", 0.1)
    source = place.owner(0)
    gates.close("move:lock:before")
    moving = Background(lambda: move_partition(place.router, 0, place.other(0), mode="trigger"))
    gates.wait_for("move:lock:before")
    with place.session(source, 0, "READ COMMITTED") as long, place.session(source, 0) as short:
        long.execute("UPDATE plain SET extra = extra WHERE false")
        eventually(lambda: place.sql(source, OLD)[0][0] > lock.OLD, "the transaction is old")
        gates.open_all()
        # Three cutovers that fail, and no statement that waits.
        short.execute("SET lock_timeout = '50ms'")
        while gates.seen.count("move:catch_up:before") < 4:
            short.execute("UPDATE plain SET extra = extra WHERE false")
        long.connection.rollback()
    moving.wait()
    place.assert_clean()


OLD = """
SELECT max(extract(epoch FROM clock_timestamp() - xact_start))::float8 FROM pg_stat_activity WHERE state LIKE 'idle in%'
"""


def test_a_reader_that_stays_through_the_drain(place: Place, gates: Gates, monkeypatch: pytest.MonkeyPatch) -> None:
    """It came when the rename was near: the rename is taken back, and made again when the reader is gone."""
    monkeypatch.setattr(fence, "DRAIN_PATIENCE", 0.1)
    monkeypatch.setattr(lock, "OLD_PATIENCE", 0.1)
    source, before = place.owner(0), place.contents()
    gates.close("move:fence:before")
    moving = Background(lambda: move_partition(place.router, 0, place.other(0), mode="trigger"))
    gates.wait_for("move:fence:before")
    with place.session(source, 0, "READ COMMITTED") as reader:
        reader.execute("SELECT count(*) FROM plain")
        gates.open_all()
        eventually(lambda: gates.seen.count("move:catch_up:before") > 1, "the cutover is undone")
        eventually(lambda: schema(0) in place.schemas()[source], "also the next one, if it was under way")
        reader.connection.rollback()
    moving.wait()
    assert place.contents() == before
    place.assert_clean()


def test_a_move_gives_up_in_the_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.router, "config", replace(place.config, moves=MoveConfig(patience=0.2)))
    monkeypatch.setattr(lock, "OLD_PATIENCE", 0.1)
    written_at(monkeypatch, {})
    with place.session(place.owner(0), 0, "READ COMMITTED") as reader:
        reader.execute("SELECT count(*) FROM plain")
        with pytest.raises(CutoverTimeout, match="long transactions use the partition"):
            move_partition(place.router, 0, place.other(0), mode="trigger")
    recover_moves(place.router)
    place.assert_clean()


# -- abort, resume, status --------------------------------------------------------------------------------------------


def test_abort(place: Place, gates: Gates) -> None:
    """While its process works on it, too."""
    source, before = place.owner(0), place.contents()
    gates.close("move:copy:inside")
    moving = Background(lambda: move_partition(place.router, 0, place.other(0), mode="trigger"))
    gates.wait_for("move:copy:inside")
    assert abort_move(place.router, 0).outcome == "undone"
    gates.open_all()
    with pytest.raises(MoveTakenOver):
        moving.wait()
    with pytest.raises(PreflightFailed, match="partition 0 does not move"):
        abort_move(place.router, 0)
    assert place.owner(0) == source and place.contents() == before
    place.assert_clean()


def test_abort_after_the_commit_point_completes(place: Place) -> None:
    target = place.other(0)
    Mover(place.config, 0, target, "move:flip:after", mode="trigger").wait_killed()
    assert abort_move(place.router, 0).outcome == "completed"
    assert place.owner(0) == target
    place.assert_clean()


@pytest.mark.parametrize("spoiling", ["TRUNCATE {log}.alive", "DROP SCHEMA {log} CASCADE"])
def test_a_log_that_a_crash_may_have_shortened_is_not_used(place: Place, spoiling: str) -> None:
    begins_again(place, "trigger", spoil(place, spoiling))


def begins_again(place: Place, mode: Mode, spoiled: Callable[[], object]) -> None:
    """A move of partition 0 is killed, what it had noted is *spoiled*; then it must be copied anew."""
    target = place.other(0)
    Mover(place.config, 0, target, "move:verify:after", mode=mode).wait_killed()
    spoiled()
    before = place.contents()
    (record,) = place.catalog("SELECT id FROM shardpool_catalog.move WHERE state = 'running'")

    def moved() -> bool:
        try:
            move_partition(place.router, 0, target, mode=mode)
        except MoveError as error:
            assert error.retryable
        return place.owner(0) == target

    eventually(moved, "it moves again from the beginning")
    assert place.catalog(f"SELECT state FROM shardpool_catalog.move WHERE id = {record.id}") == [("aborted",)]
    assert place.contents() == before
    place.assert_clean()


def test_status_tells_how_far_it_is(place: Place, gates: Gates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardpool.moves.runner.HEARTBEAT", 0.02)
    gates.close("move:copy:after")
    moving = Background(lambda: move_partition(place.router, 0, place.other(0), mode="trigger"))
    gates.wait_for("move:copy:after")
    eventually(lambda: move_status(place.router)[0].rows > 0, "the catalog heard of it")
    (status,) = move_status(place.router)
    assert (status.mode, status.step) == ("trigger", "copy")
    assert status.bytes > 0 and status.total_bytes > 0 and status.rate > 0 and status.left is not None
    gates.open_all()
    moving.wait()


def test_auto_says_why(place: Place, server_urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    report = move_partition(place.router, 0, place.other(0))
    assert (report.mode, report.reason) == ("trigger", "its writers go on, and wait only for the cutover")
    monkeypatch.setattr(modes, "MANY", 1)
    monkeypatch.setattr(modes, "MOST", 0.0)
    report = move_partition(place.router, 0, place.other(0))
    assert report.mode == "logical" and "spares its writers the triggers" in report.reason
    source = place.owner(0)
    place.sql(source, f"ALTER TABLE {schema(0)}.plain REPLICA IDENTITY DEFAULT")
    mode, reason = modes.choose_mode(place.router, 0, source, place.other(0), "auto")
    place.sql(source, f"ALTER TABLE {schema(0)}.plain REPLICA IDENTITY FULL")
    assert mode == "trigger" and "table plain has no primary key" in reason
    role = f"plain_{uuid.uuid4().hex[:8]}"
    with databases(server_urls[:2]) as urls:
        for url in urls:
            connection = plain_connection(url)
            name = make_url(url).database
            connection.cursor().execute(f"CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {name} TO {role}")
            connection.cursor().execute(
                f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC; GRANT CREATE ON SCHEMA public TO {role}"
            )
            connection.close()
        poor = Place(shop_config([str(make_url(url).set(username=role)) for url in urls]))
        try:
            poor.fill(customers=20)
            report = move_partition(poor.router, 0, poor.other(0))
            assert report.mode == "block" and "GRANT TEMPORARY" in report.reason
            with pytest.raises(PreflightFailed, match="GRANT TEMPORARY"):
                move_partition(poor.router, 0, poor.other(0), mode="trigger")
        finally:
            poor.close()
        for url in urls:
            connection = plain_connection(url)
            connection.cursor().execute(f"DROP OWNED BY {role} CASCADE")
            connection.close()
    for url in server_urls[:2]:
        connection = plain_connection(url)
        connection.cursor().execute(f"DROP ROLE {role}")
        connection.close()


# -- held back --------------------------------------------------------------------------------------------------------


def test_a_copy_is_held_back_while_the_servers_are_slow(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on when they are quick again."""
    moves = MoveConfig(max_latency=0.5, max_lag=5.0)
    monkeypatch.setattr(place.router, "config", replace(place.config, moves=moves))
    monkeypatch.setattr(throttle, "INTERVAL", 0.01)
    monkeypatch.setattr(throttle, "LONGEST_WAIT", 60.0)
    seen = [(0.1, 0.0)]
    asked: list[Watcher] = []

    def probe(watcher: Watcher) -> tuple[float, float]:
        asked.append(watcher)
        return seen[-1]

    def slow_down() -> None:
        for state in ((0.6, 0.0), (0.1, 6.0)):
            seen.append(state)
            asked.clear()
            eventually(lambda: len(asked) > 4, "the servers were asked")

    monkeypatch.setattr(throttle, "probe", probe)
    written_at(monkeypatch, {"move:copy:inside": lambda: len(seen) == 1 and slow_down()})
    moving = Background(lambda: move_partition(place.router, 0, place.other(0), mode="trigger"))
    eventually(lambda: seen[-1] == (0.1, 6.0), "the copy is under way")
    asked.clear()
    eventually(lambda: len(asked) > 10, "some time has passed")
    assert not moving.done
    seen.append((0.1, 0.0))
    moving.wait()
    place.assert_clean()


def test_a_rate_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(throttle, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    held = throttle.Throttle(MoveConfig(max_rate=1000))
    for _ in range(10):
        held.passed(100)
    assert now[0] == pytest.approx(1.0)
    assert throttle.Throttle(MoveConfig()).passed(10**9) is None and now[0] == pytest.approx(1.0)


def test_a_share_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rested = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        rested.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    held = throttle.Throttle(MoveConfig(share=0.25))
    for _ in range(1000):
        now[0] += 0.01
        held.passed(10)
    assert sum(rested) == pytest.approx(30.0, rel=0.1)


@pytest.mark.parametrize("step", ["verify", "none"])
def test_a_comparison_in_pieces_sees_every_row(place: Place, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Of tables larger than a piece, with rests, also what the table grew by after its size was read."""
    monkeypatch.setattr(verify, "PAGE", 512)
    monkeypatch.setattr(verify, "PIECE", 1)
    monkeypatch.setattr(pace, "SLICE", 0.0)
    monkeypatch.setattr(place.router, "config", replace(place.config, moves=MoveConfig(share=0.9)))
    key = next(key for key in range(60) if place.router.partition_of(key).id == 0)
    source = place.owner(0)
    grow = f"INSERT INTO shop_p0000.plain SELECT {key}, repeat('x', 500) FROM generate_series(1, 300)"
    written_at(monkeypatch, {"move:copy:after": lambda: place.sql(source, grow)})
    before = place.contents()
    if step == "none":
        move_partition(place.router, 0, place.other(0), mode="trigger")
        assert place.contents()[0] != before[0]  # it grew
        place.sql(place.owner(0), "DELETE FROM shop_p0000.plain WHERE payload LIKE 'xxx%' AND length(payload) = 500")
        assert place.contents() == before
        return

    def spoil() -> None:
        target = place.other(0)
        ((incoming,),) = place.sql(target, "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%incoming%'")
        place.sql(
            target, f"UPDATE {incoming}.plain SET extra = 8 WHERE ctid = (SELECT max(ctid) FROM {incoming}.plain)"
        )

    written_at(monkeypatch, {"move:verify:before": spoil})
    with pytest.raises(DigestMismatch, match=r"plain: .* but not the same ones"):
        move_partition(place.router, 0, place.other(0), mode="trigger")
    place.assert_clean()


def test_the_servers_are_asked(place: Place) -> None:
    watcher = Watcher(place.router.engines, "s0")
    try:
        latency, lag = throttle.probe(watcher)
    finally:
        watcher.close()
    assert 0 < latency < 5 and lag == 0.0


def test_readers_of_a_reference_table_are_not_held_up(place: Place, gates: Gates) -> None:
    """Foreign keys of the copy lead to it: while one transaction that has read it stays, others read it at once."""
    target = place.other(0)
    gates.close("move:copy:after")
    moving = Background(lambda: move_partition(place.router, 0, target, mode="trigger"))
    gates.wait_for("move:copy:after")
    with place.session(target, isolation="REPEATABLE READ") as staying, place.session(target) as passing:
        staying.execute("SELECT count(*) FROM shop.country")
        passing.execute("SET lock_timeout = '5s'")
        gates.open_all()
        waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'shop.country'::regclass"
        eventually(lambda: bool(place.sql(target, waits)), "the move wants the table")
        for _ in range(20):
            passing.execute("SELECT count(*) FROM shop.country")
        assert not moving.done and "move:finish:after" not in gates.seen
        staying.execute("COMMIT")
        moving.wait()
    place.assert_clean()
