"""Moving a partition between two servers: its rows, its tables, its clients."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from psycopg2 import errors
from sqlalchemy.engine import make_url

from shardpool import Router
from shardpool.config import MoveConfig, PoolConfig
from shardpool.ddl import SchemaManager
from shardpool.errors import (
    CutoverTimeout,
    DigestMismatch,
    MoveError,
    MoveInProgress,
    PreflightFailed,
    SchemaDrift,
    SchemaError,
)
from shardpool.moves import (
    STEPS,
    MoveProgress,
    fence,
    grants,
    lock,
    move_partition,
    move_status,
    parallel,
    recover_moves,
    relay,
    servers,
    verify,
)
from shardpool.moves.layout import TableLayout, parents_first
from shardpool.moves.record import Mode
from shardpool.moves.steps import names_of
from shardpool.topology.names import quote
from shardpool.topology.tables import Sharded
from tests.moves.conftest import shop_config
from tests.moves.move_tools import TABLES, Background, Gates, Mover, Place, schema, wait_until_blocked
from tests.support.backends import databases, plain_connection
from tests.support.waiting import eventually

STEP_NAMES = [step.name for step in STEPS["trigger"]]
#: Where a move is while writers wait.
WRITERS_WAIT = {"block": "move:copy:inside", "trigger": "move:last:before", "logical": "move:last:before"}

pytestmark = pytest.mark.usefixtures("mode")


def test_everything_moves_back_and_forth(place: Place) -> None:
    before = place.contents()
    features = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'shop_p0000' ORDER BY 1"
    indexes = place.sql(place.owner(0), features)
    for _ in range(5):
        source, target = place.owner(0), place.other(0)
        report = move_partition(place.router, 0, target)
        assert (report.source, report.target, report.leftovers) == (source, target, ())
        # No trigger has fired, and no row was lost, doubled or changed.
        assert place.contents() == before
        assert place.sql(target, features) == indexes
        place.assert_clean()
    for shard, statement, state in (
        (target, "INSERT INTO shop_p0000.orders VALUES (-1, 1, 1)", "23503"),
        (target, "INSERT INTO shop_p0000.customers VALUES (-1, 'x', 'xx')", "23503"),
        (source, "SELECT * FROM shop_p0000.orders", "42P01"),
    ):
        with pytest.raises(psycopg2.Error) as caught:
            place.sql(shard, statement)
        assert caught.value.pgcode == state


def test_a_report_and_progress(place: Place, mode: Mode) -> None:
    seen: list[MoveProgress] = []
    report = move_partition(place.router, 1, place.other(1), progress=seen.append)
    tables = [quote(name) for name, kind in TABLES.items() if isinstance(kind, Sharded)]
    count = "+".join(f"(SELECT count(*) FROM shop_p0001.{name})" for name in tables)
    assert report.rows == place.sql(place.owner(1), f"SELECT {count}")[0][0]
    assert report.bytes > report.rows
    assert 0 < report.pause < report.seconds
    assert [name for name, _ in report.steps] == ["preflight", "register", *names_of(mode)]
    assert list(dict.fromkeys(it.step for it in seen)) == ["preflight", "register", *names_of(mode)]
    assert seen[-1].rows == report.rows and seen[-1].bytes == report.bytes and seen[-1].total_bytes > 0


def test_parents_come_first() -> None:
    assert parents_first(["a", "b", "c"], [("a", "b"), ("b", "c")]) == ("c", "b", "a")
    assert parents_first(["b", "a"], [("a", "b"), ("b", "a")]) == ("a", "b")


# -- clients ----------------------------------------------------------------------------------------------------------


def neighbour_of(place: Place, partition: int) -> int:
    """Another partition on the same shard; one is moved there if there is none."""
    other = next(it.id for it in place.router.shard_map.partitions if it.id != partition)
    if place.owner(other) != place.owner(partition):
        move_partition(place.router, other, place.owner(partition))
    return other


def test_writers_wait_and_readers_go_on(place: Place, gates: Gates, mode: Mode) -> None:
    source, before = place.owner(0), place.contents()
    other = neighbour_of(place, 0)
    gates.close(WRITERS_WAIT[mode], "move:fence:before")
    moving = Background(lambda: move_partition(place.router, 0, place.other(0)))
    gates.wait_for(WRITERS_WAIT[mode])
    with (
        place.session(source, 0) as writer,
        place.session(source, 0) as reader,
        place.session(source, other) as neighbour,
    ):
        writing = Background(lambda: writer.execute("UPDATE customers SET name = 'late'"))
        wait_until_blocked(place, source, writer.connection.info.backend_pid)
        reader.execute("SELECT count(*) FROM orders")
        # Writers of another partition on the same server do not wait.
        neighbour.execute("SET lock_timeout = '1ms'; UPDATE customers SET name = name")
        gates.open_all()
        gates.wait_for("move:fence:before")
        moving.wait()
        with pytest.raises(errors.UndefinedTable):
            writing.wait()
        with pytest.raises(errors.UndefinedTable):
            reader.execute("SELECT count(*) FROM orders")
    assert place.contents() == before


def test_a_router_sees_no_move(place: Place) -> None:
    """Statements without a transaction of their own never fail, and none is lost or done twice."""
    keys = [key for key in range(60) if place.router.partition_of(key).id == 2]
    place.router.execute(keys[0], "UPDATE plain SET extra = 0 WHERE customer_id = :key", {"key": keys[0]})
    ended = threading.Event()
    counts = {"writes": 0, "reads": 0}

    def write() -> None:
        while not ended.is_set():
            place.router.execute(keys[0], "UPDATE plain SET extra = extra + 1 WHERE customer_id = :k", {"k": keys[0]})
            counts["writes"] += 1

    def read() -> None:
        last = 0
        while not ended.is_set():
            extra = place.router.query(f"SELECT extra FROM plain WHERE customer_id = {keys[0]}").scalar_one()
            assert extra >= last
            assert place.router.query("SELECT count(*) FROM customers").scalar_one() == 60
            last = extra
            counts["reads"] += 1

    clients = [Background(write), Background(read)]
    for _ in range(4):
        seen = dict(counts)
        eventually(lambda seen=seen: all(counts[it] > seen[it] for it in counts), "the clients work")
        move_partition(place.router, 2, place.other(2))
    ended.set()
    for client in clients:
        client.wait()
    extra = place.router.query(f"SELECT extra FROM plain WHERE customer_id = {keys[0]}").scalar_one()
    assert extra == counts["writes"]


def test_rights_travel(place: Place) -> None:
    source, target = place.owner(0), place.other(0)
    role = f'Odd "role" {uuid.uuid4().hex[:8]}'
    for shard in (source, target):
        place.sql(shard, f"CREATE ROLE {quote(role)}")
    place.sql(source, f"GRANT USAGE ON SCHEMA shop_p0000 TO {quote(role)} WITH GRANT OPTION")
    place.sql(source, f"GRANT SELECT, UPDATE (payload) ON shop_p0000.plain TO {quote(role)}")
    place.sql(source, "GRANT SELECT ON shop_p0000.customers TO PUBLIC")
    given = grants.read_grants(place.connect(source), "shop_p0000")
    assert len(given) == 4
    move_partition(place.router, 0, target)
    assert grants.read_grants(place.connect(target), "shop_p0000") == given
    place.sql(source, f"DROP OWNED BY {quote(role)}; DROP ROLE {quote(role)}")
    assert f"role {role} has rights on shop_p0000, and does not exist on shard {source}" in refused(place, source)
    place.sql(target, f"DROP OWNED BY {quote(role)}; DROP ROLE {quote(role)}")
    place.sql(target, "REVOKE SELECT ON shop_p0000.customers FROM PUBLIC")


def test_waiting_writers_leave_room_in_the_pool(place: Place, gates: Gates, mode: Mode) -> None:
    """For everybody else on that shard."""
    config = replace(place.config, pool=PoolConfig(max_size=4, timeout=20))
    with Router(config) as router:
        by_partition = {
            it.id: next(k for k in range(60) if router.partition_of(k) == it) for it in router.shard_map.partitions
        }
        other = neighbour_of(place, 0)
        gates.close(WRITERS_WAIT[mode])
        moving = Background(lambda: move_partition(place.router, 0, place.other(0)))
        gates.wait_for(WRITERS_WAIT[mode])
        eventually(lambda: router.shard_map.placement(0).moving, "the router knows")
        key = by_partition[0]
        write = "UPDATE plain SET extra = coalesce(extra, 0) + 1 WHERE customer_id = :key"
        writing = [Background(lambda: router.execute(key, write, {"key": key})) for _ in range(8)]
        shard = place.owner(0)
        eventually(lambda: router.stats().pools[shard].in_use >= 2, "writers wait in the server")
        for _ in range(20):
            router.execute(by_partition[other], write, {"key": by_partition[other]})
        assert router.stats().pools[shard].in_use == 2
        gates.open_all()
        moving.wait()
        for it in writing:
            it.wait()


# -- two at once ------------------------------------------------------------------------------------------------------


def test_two_movers_of_one_partition(place: Place, gates: Gates) -> None:
    target = place.other(0)
    gates.close("move:copy:inside")
    first = Background(lambda: move_partition(place.router, 0, target))
    gates.wait_for("move:copy:inside")
    with pytest.raises(MoveInProgress) as caught:
        move_partition(place.router, 0, target)
    assert caught.value.retryable
    (status,) = move_status(place.router)
    assert (status.partition, status.step, status.target, status.frozen) == (0, "copy", target, False)
    assert status.description.startswith("copy the rows")
    (recovered,) = recover_moves(place.router)
    assert recovered.outcome == "running"
    gates.open_all()
    assert first.wait().target == target
    assert move_status(place.router) == []


def test_two_partitions_at_once(place: Place) -> None:
    before = place.contents()
    movers = [Background(lambda it=it: move_partition(place.router, it, place.other(it))) for it in (0, 1, 2)]
    for mover in movers:
        mover.wait()
    assert place.contents() == before
    place.assert_clean()


def test_schema_changes_and_moves_exclude_each_other(place: Place, gates: Gates) -> None:
    gates.close("move:copy:inside")
    moving = Background(lambda: move_partition(place.router, 0, place.other(0)))
    gates.wait_for("move:copy:inside")
    with pytest.raises(SchemaError, match="SP261"):
        place.router.create_schema("ALTER TABLE plain ADD COLUMN never int")
    gates.open_all()
    moving.wait()
    with place.router.catalog.lock("topology", RuntimeError):
        waiting = Background(lambda: move_partition(place.router, 0, place.other(0)))
        eventually(lambda: bool(place.catalog("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'")), "it begins")
        assert move_status(place.router) == []
    waiting.wait()


# -- what is refused --------------------------------------------------------------------------------------------------


def refused(place: Place, to: str, partition: int = 0) -> str:
    before = place.schemas()
    with pytest.raises(PreflightFailed) as caught:
        move_partition(place.router, partition, to)
    assert place.schemas() == before and move_status(place.router) == []
    return str(caught.value)


def test_preflight_of_the_places(place: Place) -> None:
    assert "already" in refused(place, place.owner(0))
    assert "no shard 's9'" in refused(place, "s9")
    assert "no partition 99" in refused(place, "s1", partition=99)


@pytest.mark.parametrize(
    ("where", "prepare", "clean", "message"),
    [
        ("target", "CREATE SCHEMA {schema}", "DROP SCHEMA {schema}", "already"),
        ("source", "CREATE TABLE {schema}.extra ()", "DROP TABLE {schema}.extra", "extra is not one of the keyspace's"),
        ("source", "CREATE SEQUENCE {schema}.seq", "DROP SEQUENCE {schema}.seq", "sequence"),
        (
            "source",
            "CREATE VIEW public.peek AS SELECT * FROM {schema}.orders",
            "DROP VIEW public.peek",
            "rule _RETURN on view peek",
        ),
        (
            "source",
            "CREATE FUNCTION public.peek() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM {schema}.orders; END",
            "DROP FUNCTION public.peek()",
            "function peek()",
        ),
        (
            "source",
            "CREATE TABLE public.ref (a bigint REFERENCES {schema}.customers)",
            "DROP TABLE public.ref",
            "constraint ref_a_fkey",
        ),
        (
            "source",
            "CREATE TABLE public.parent (payload text); ALTER TABLE {schema}.plain INHERIT public.parent",
            "ALTER TABLE {schema}.plain NO INHERIT public.parent; DROP TABLE public.parent",
            "table parent",
        ),
        ("source", "CREATE TABLE public.orders ()", "DROP TABLE public.orders", "relation public.orders"),
        ("target", "CREATE VIEW shop.plain AS SELECT 1", "DROP VIEW shop.plain", "relation shop.plain"),
        (
            "source",
            "BEGIN; UPDATE {schema}.customers SET name = 'p'; PREPARE TRANSACTION 'stuck'",
            "ROLLBACK PREPARED 'stuck'",
            "prepared transaction 'stuck'",
        ),
    ],
)
def test_preflight_of_the_servers(place: Place, where: str, prepare: str, clean: str, message: str) -> None:
    shard = place.owner(0) if where == "source" else place.other(0)
    place.sql(shard, prepare.format(schema=schema(0)))
    try:
        assert message in refused(place, place.other(0))
    finally:
        for statement in clean.format(schema=schema(0)).split(";"):
            place.sql(shard, statement)


def test_preflight_tells_all_reasons(place: Place) -> None:
    source, target = place.owner(0), place.other(0)
    place.sql(source, "CREATE TABLE shop_p0000.extra ()")
    place.router.catalog.set_shard_state(target, "draining")
    try:
        with pytest.raises(PreflightFailed) as caught:
            move_partition(place.router, 0, target)
    finally:
        place.router.catalog.set_shard_state(target, "active")
        place.sql(source, "DROP TABLE shop_p0000.extra")
    assert len(caught.value.failures) == 2


def test_an_index_that_was_never_recorded_is_not_lost(place: Place) -> None:
    source, target = place.owner(0), place.other(0)
    place.sql(source, "CREATE INDEX by_hand ON shop_p0000.orders (total)")
    with pytest.raises(SchemaDrift, match="by_hand"):
        move_partition(place.router, 0, target)
    place.sql(source, "DROP INDEX shop_p0000.by_hand")
    place.assert_clean()


# -- who does not let go ----------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.router, "config", replace(place.config, moves=MoveConfig(patience=0.3)))
    monkeypatch.setattr(lock, "OLD_PATIENCE", 0.4)
    monkeypatch.setattr(lock, "TRIES", 2)
    monkeypatch.setattr(lock, "PATIENCE", (0.1, 0.1))
    monkeypatch.setattr(fence, "READER_PATIENCE", 0.5)
    monkeypatch.setattr(fence, "DRAIN_PATIENCE", 0.5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "statement", ["DELETE FROM plain", "SELECT FROM plain FOR KEY SHARE", "LOCK plain IN SHARE MODE"]
)
def test_a_writer_that_does_not_end(place: Place, statement: str) -> None:
    with place.session(place.owner(0), 0, "READ COMMITTED") as writer:
        writer.execute(statement)
        with pytest.raises(CutoverTimeout, match=f"pid {writer.connection.info.backend_pid} .*idle in transaction"):
            move_partition(place.router, 0, place.other(0))
        writer.execute("SELECT 1")  # it was not hurt
    recover_moves(place.router)  # triggers could not be dropped while it held its locks
    place.assert_clean()


@pytest.mark.usefixtures("impatient")
def test_a_reader_that_does_not_end(place: Place) -> None:
    with place.session(place.owner(0), 0, "REPEATABLE READ") as reader:
        reader.execute("SELECT count(*) FROM orders")
        (count,) = reader.fetchone()
        with pytest.raises(CutoverTimeout, match=f"pid {reader.connection.info.backend_pid} "):
            move_partition(place.router, 0, place.other(0))
        # It never noticed.
        reader.execute("SELECT count(*) FROM orders")
        assert reader.fetchone() == (count,)
    recover_moves(place.router)  # triggers could not be dropped while it read
    place.assert_clean()


def test_a_transaction_in_a_deadlock_with_the_move_is_not_the_victim(place: Place, mode: Mode) -> None:
    """It has written the child table and waits for the parent, which the move locks first."""
    source = place.owner(0)
    with place.session(source, 0, "READ COMMITTED") as writer:
        writer.execute("UPDATE orders SET total = total WHERE false")
        moving = Background(lambda: move_partition(place.router, 0, place.other(0)))
        mover = (
            "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'shardpool move%' AND wait_event_type = 'Lock'"
        )
        if mode == "block":
            eventually(lambda: bool(place.sql(source, mover)), "the move waits for the child")
        else:  # for a moment with a lock, and then without
            eventually(lambda: [it.step for it in move_status(place.router)] == ["capture"], "the move waits")
        writer.execute("UPDATE customers SET name = name WHERE false")  # waits until the move gives up
        writer.connection.commit()
        moving.wait()


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_row_lost_on_the_way_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = relay.select_rows

    def lossy(schema_name: str, table: TableLayout) -> str:
        return honest(schema_name, table) + (" OFFSET 1" if table.name == "plain" else "")

    monkeypatch.setattr(relay, "select_rows", lossy)
    before = place.contents()
    with pytest.raises(DigestMismatch, match=r"plain: .* rows on"):
        move_partition(place.router, 0, place.other(0))
    assert place.contents() == before
    place.assert_clean()


@pytest.mark.parametrize("change", ["plain SET payload = payload || ' ' WHERE payload <> ''", "things SET n = 17"])
def test_a_row_changed_on_the_way_is_found(place: Place, gates: Gates, change: str) -> None:
    """Also in a table with columns of one letter, which a careless digest would take for the whole row."""
    target = place.other(0)
    gates.close("move:verify:before")
    moving = Background(lambda: move_partition(place.router, 0, target))
    gates.wait_for("move:verify:before")
    ((incoming,),) = place.sql(target, "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%incoming%'")
    place.sql(target, f"UPDATE {incoming}.{change}")
    gates.open_all()
    with pytest.raises(DigestMismatch, match="but not the same ones"):
        moving.wait()
    place.assert_clean()


@pytest.mark.parametrize("slow", ["source", "target"])
def test_a_side_that_waits_for_the_other_is_not_ended(
    place: Place, monkeypatch: pytest.MonkeyPatch, mode: Mode, slow: str
) -> None:
    """Digests of one side take longer than its server lets a transaction be idle."""
    monkeypatch.setitem(servers.SETTINGS, "idle_in_transaction_session_timeout", "400ms")
    monkeypatch.setattr(parallel, "INTERVAL", 0.05)
    honest = verify.digest

    def slowly(schema_name: str, table: TableLayout, condition: str = "") -> str:
        side = "target" if "incoming" in schema_name else "source"
        if side == slow and table.name == "plain":
            condition = " WHERE EXISTS (SELECT FROM pg_sleep(1.2))"
        return honest(schema_name, table, condition)

    monkeypatch.setattr(verify, "digest", slowly)
    before = place.contents()
    assert move_partition(place.router, 0, place.other(0)).mode == mode
    assert place.contents() == before
    place.assert_clean()


def test_a_copy_that_fails_says_why(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "select_rows", lambda schema, table: "SELECT 1 / (1 - g) FROM generate_series(0, 9) g")
    with pytest.raises(MoveError, match="step copy failed: division by zero") as caught:
        move_partition(place.router, 0, place.other(0))
    assert any("was undone" in note for note in caught.value.__notes__)
    monkeypatch.setattr(relay, "select_rows", lambda schema, table: "SELECT 'too few columns'")
    with pytest.raises(MoveError, match="step copy failed: row field count"):
        move_partition(place.router, 0, place.other(0))
    place.assert_clean()


@pytest.mark.parametrize(
    "point", [*(f"move:{name}:before" for name in STEP_NAMES), "move:flip:after", "move:release:after"]
)
def test_ctrl_c(place: Place, monkeypatch: pytest.MonkeyPatch, point: str, mode: Mode) -> None:
    """Before the commit point it undoes, after it it completes."""
    if point.split(":")[1] not in names_of(mode):
        return
    source, target, before = place.owner(0), place.other(0), place.contents()
    raised = []

    def interrupt(name: str) -> None:
        if name == point and not raised:
            raised.append(name)
            raise KeyboardInterrupt

    monkeypatch.setattr("shardpool.faults.fault_point", interrupt)
    with pytest.raises(KeyboardInterrupt):
        move_partition(place.router, 0, target)
    committed = STEP_NAMES.index(point.split(":")[1]) > STEP_NAMES.index("flip") or point == "move:flip:after"
    assert place.owner(0) == (target if committed else source)
    assert place.contents() == before
    place.assert_clean()


def test_ctrl_c_while_servers_work(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is interruptible: what runs on the servers is cancelled."""

    def interrupt(connection: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shardpool.moves.create.keep_alive", interrupt)
    honest = SchemaManager.replay_partition

    def slow(self: SchemaManager, connection: Any, schema_name: str, after_copy: bool) -> None:
        honest(self, connection, schema_name, after_copy)
        if after_copy:
            connection.cursor().execute("SELECT pg_sleep(60)")

    monkeypatch.setattr(SchemaManager, "replay_partition", slow)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        move_partition(place.router, 0, place.other(0))
    assert time.monotonic() - began < 10
    place.assert_clean()


# -- an ordinary role -------------------------------------------------------------------------------------------------


def test_no_superuser_is_needed(server_urls: list[str], mode: Mode) -> None:
    """The owner of the databases moves, recovers and joins shards."""
    role = f"plain_{uuid.uuid4().hex[:8]}"
    with databases(server_urls[:2]) as urls:
        for url in urls:
            connection = plain_connection(url)
            connection.cursor().execute(
                f"CREATE ROLE {role} LOGIN {'REPLICATION' if mode == 'logical' else ''}; "
                f"ALTER DATABASE {make_url(url).database} OWNER TO {role}"
            )
            connection.close()
        place = Place(shop_config([str(make_url(url).set(username=role)) for url in urls]))
        try:
            place.fill(customers=20)
            before = place.contents()
            move_partition(place.router, 0, place.other(0))
            Mover(place.config, 0, place.other(0), "move:fence:after").wait_killed()
            recover_moves(place.router, frozen_after=0.0)
            assert place.contents() == before
            place.assert_clean()
        finally:
            place.close()
    for url in server_urls[:2]:
        connection = plain_connection(url)
        connection.cursor().execute(f"DROP ROLE {role}")
        connection.close()
