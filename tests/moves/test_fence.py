"""The fence: whatever a client has open when a partition moves, it neither reads nor writes where the partition was.

Every case runs on PostgreSQL 18 and 16. A session is brought into a state before the move; the move stops at points
where it can be observed; the session goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psycopg2
import pytest
from psycopg2 import errors

from shardpool.local import LocalCluster
from shardpool.moves import fence, lock, move_partition, steps
from shardpool.moves.record import Mode
from tests.moves.conftest import shop_config, take_mode
from tests.moves.move_tools import Background, Gates, Place, wait_until_blocked
from tests.support.waiting import eventually

COUNT = "SELECT count(*) FROM plain"
WRITE = "UPDATE plain SET extra = extra + 1"
ISOLATIONS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
#: How statements reach the server, prepared before anything moves.
PREPARED = f"PREPARE reading AS {COUNT}; PREPARE writing AS {WRITE}"
READS = {
    "text": COUNT,
    "qualified": "SELECT count(*) FROM shop_p0000.plain",
    "prepared": "EXECUTE reading",
    "function": "SELECT public.count_plain()",
}
WRITES = {
    "text": WRITE,
    "qualified": "DELETE FROM shop_p0000.plain",
    "prepared": "EXECUTE writing",
    "function": "SELECT public.write_plain()",
    "row locks": "SELECT * FROM plain FOR KEY SHARE",
    "truncate": "TRUNCATE plain",
    "copy": "COPY plain (customer_id) FROM PROGRAM 'echo 1'",
    "ddl": "ALTER TABLE plain ADD COLUMN never int",
}
FUNCTIONS = f"""
CREATE FUNCTION public.count_plain() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN ({COUNT}); END';
CREATE FUNCTION public.write_plain() RETURNS void LANGUAGE plpgsql AS 'BEGIN {WRITE}; END';
"""


@pytest.fixture(scope="module", params=[18, 16], ids=["pg18", "pg16"])
def versions(request: pytest.FixtureRequest) -> Iterator[Place]:
    with LocalCluster(shards=2, version=request.param) as cluster:
        place = Place(shop_config([cluster.url(name) for name in cluster.names]))
        try:
            place.fill(customers=20)
            for shard in place.config.shards:
                place.sql(shard, FUNCTIONS)
            yield place
        finally:
            place.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test decides how long its transactions last."""
    monkeypatch.setattr(fence, "OLD", 60.0)
    monkeypatch.setattr(lock, "OLD", 60.0)
    monkeypatch.setattr(fence, "DRAIN_PATIENCE", 20.0)


@pytest.fixture(autouse=True, params=[pytest.param("block", marks=pytest.mark.slow), "trigger"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return take_mode(request, monkeypatch)


class Client:
    """A session on the partition's shard, with a transaction if an isolation level is given."""

    def __init__(self, place: Place, stack: ExitStack, isolation: str | None = None) -> None:
        self.cursor: Any = stack.enter_context(place.session(place.owner(0), 0))
        self.cursor.execute(PREPARED)
        # Plans are cached, and catalogs are known.
        for read in READS.values():
            self.cursor.execute(read)
        if isolation is not None:
            self.cursor.execute(f"BEGIN ISOLATION LEVEL {isolation}")

    @property
    def pid(self) -> int:
        return int(self.cursor.connection.info.backend_pid)

    def ask(self, statement: str) -> Any:
        self.cursor.execute(statement)
        return self.cursor.fetchone()[0]

    def fails(self, statement: str) -> None:
        with pytest.raises(errors.UndefinedTable):
            self.cursor.execute(statement)


def start_move(place: Place) -> Background:
    target = place.other(0)
    return Background(lambda: move_partition(place.router, 0, target))


@pytest.mark.parametrize("isolation", [None, *ISOLATIONS])
def test_writers_that_wait_for_the_lock(versions: Place, gates: Gates, isolation: str | None) -> None:
    """Autocommit statements, and transactions whose snapshot is older than the move."""
    before, source = versions.contents(), versions.owner(0)
    with ExitStack() as stack:
        clients = {how: Client(versions, stack, isolation) for how in WRITES}
        if isolation is not None:
            for client in clients.values():
                client.ask("SELECT count(*) FROM pg_class")  # a snapshot, but no lock of the partition
        gates.close("move:fence:before")
        moving = start_move(versions)
        gates.wait_for("move:fence:before")
        waiting = [
            Background(lambda client=client, how=how: client.fails(WRITES[how])) for how, client in clients.items()
        ]
        for client in clients.values():
            wait_until_blocked(versions, source, client.pid)
        gates.open_all()
        for writer in waiting:
            writer.wait()
        moving.wait()
    assert versions.contents() == before


@pytest.mark.parametrize("isolation", [None, *ISOLATIONS])
@pytest.mark.parametrize("point", ["move:drain:before", "move:flip:after", "move:switch_on:after"])
def test_clients_that_come_after_the_fence(versions: Place, gates: Gates, isolation: str | None, point: str) -> None:
    """Also in transactions that are older than the move, by plans that are older, at each point after the rename."""
    before = versions.contents()
    with ExitStack() as stack:
        clients = [(Client(versions, stack, isolation), it) for it in (*READS.values(), *WRITES.values())]
        if isolation is not None:
            for client, _ in clients:
                client.ask("SELECT count(*) FROM pg_class")
        gates.close(point)
        moving = start_move(versions)
        gates.wait_for(point)
        for client, statement in clients:
            client.fails(statement)
        gates.open_all()
        moving.wait()
    assert versions.contents() == before


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("group", [[it for it in WRITES if it not in ("truncate", "ddl")], ["truncate"], ["ddl"]])
def test_transactions_that_have_read_and_then_write(
    versions: Place, gates: Gates, isolation: str, group: list[str]
) -> None:
    """The commonest transaction there is. It waits for the move, which does not wait for it: no deadlock, and 42P01.
    (Those that would also be in a deadlock with each other come one by one.)"""
    before, source = versions.contents(), versions.owner(0)
    with ExitStack() as stack:
        clients = {how: Client(versions, stack, isolation) for how in group}
        for client in clients.values():
            client.ask(COUNT)
        gates.close("move:fence:before")
        moving = start_move(versions)
        gates.wait_for("move:fence:before")
        waiting = [
            Background(lambda client=client, how=how: client.fails(WRITES[how])) for how, client in clients.items()
        ]
        for client in clients.values():
            wait_until_blocked(versions, source, client.pid)
        gates.open_all()
        for writer in waiting:
            writer.wait()
        # Their transactions have failed, and hold no more locks: the move goes on without their rollbacks.
        moving.wait()
    assert versions.contents() == before


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_flip_waits_for_transactions_that_have_read(versions: Place, gates: Gates, isolation: str) -> None:
    """They may go on reading what they know, or get 42P01; nobody can have written the target meanwhile."""
    target = versions.other(0)
    with ExitStack() as stack:
        clients = {how: Client(versions, stack, isolation) for how in READS}
        gates.close("move:fence:before")
        moving = start_move(versions)
        gates.wait_for("move:fence:before")
        known = {how: client.ask(READS[how]) for how, client in clients.items()}  # reads are not held up
        gates.open_all()
        eventually(lambda: "move:drain:before" in gates.seen, "the schema is renamed")
        for how, client in clients.items():
            with suppress(errors.UndefinedTable):
                assert client.ask(READS[how]) == known[how]
        for how in ("prepared", "function"):  # these do go on reading: see `test_without_the_drain...`
            assert "move:flip:before" not in gates.seen
            clients[how].cursor.execute("ROLLBACK")
        for client in clients.values():
            client.cursor.execute("ROLLBACK")
        moving.wait()
        for how, client in clients.items():
            client.fails(READS[how])
    assert versions.owner(0) == target


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_cursor_that_is_open(versions: Place, gates: Gates, isolation: str) -> None:
    with ExitStack() as stack:
        client = Client(versions, stack, isolation)
        gates.close("move:fence:before")
        moving = start_move(versions)
        gates.wait_for("move:fence:before")
        rows = client.ask(COUNT)
        client.cursor.execute("DECLARE c CURSOR FOR SELECT 1 FROM plain; FETCH 1 FROM c")
        gates.open_all()
        eventually(lambda: "move:drain:before" in gates.seen, "the schema is renamed")
        client.cursor.execute("FETCH ALL FROM c")
        assert client.cursor.rowcount == rows - 1
        assert "move:flip:before" not in gates.seen
        client.cursor.execute("COMMIT")
        moving.wait()


def test_without_the_drain_a_prepared_read_is_stale(
    versions: Place, gates: Gates, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """Why there is a step between rename and flip: this test fails if PostgreSQL ever closes the hole by itself."""
    careless = tuple(
        steps.Step(it.name, steps.nothing, it.undo, it.describe) if it.name == "drain" else it
        for it in steps.STEPS[mode]
    )
    monkeypatch.setattr("shardpool.moves.runner.STEPS", {mode: careless})
    # A reader that stays for long would also keep the old schema from being dropped.
    target = versions.other(0)
    with ExitStack() as stack:
        client = Client(versions, stack, "READ COMMITTED")
        gates.close("move:fence:before")
        moving = start_move(versions)
        gates.wait_for("move:fence:before")
        known = client.ask("EXECUTE reading")
        gates.close("move:release:before")
        gates.open("move:fence:before")
        gates.wait_for("move:release:before")
        versions.sql(target, "INSERT INTO shop_p0000.plain VALUES (0, 'new')")
        assert client.ask("EXECUTE reading") == known
        client.cursor.execute("ROLLBACK")
        gates.open_all()
        moving.wait()
    versions.sql(target, "DELETE FROM shop_p0000.plain WHERE payload = 'new'")
    versions.assert_clean()


def test_a_prepared_transaction_holds_the_move_off(versions: Place, gates: Gates, mode: Mode) -> None:
    """One that was prepared after the preflight looked."""
    source = versions.owner(0)
    gates.close("move:create:before")
    gates.close("move:capture:inside")
    moving = start_move(versions)
    gates.wait_for("move:create:before")
    versions.sql(source, "BEGIN; UPDATE shop_p0000.plain SET payload = 'doubtful'; PREPARE TRANSACTION 'doubtful'")
    gates.open_all()
    mover = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'shardpool move%' AND wait_event_type = 'Lock'"
    if mode == "block":
        eventually(lambda: bool(versions.sql(source, mover)), "the move waits")
    else:  # politely, without a lock that others would queue behind
        gates.wait_for("move:capture:inside")
        assert "move:capture:after" not in gates.seen
    versions.sql(source, "COMMIT PREPARED 'doubtful'")
    moving.wait()
    assert versions.sql(versions.owner(0), "SELECT DISTINCT payload FROM shop_p0000.plain") == [("doubtful",)]


def test_an_old_snapshot_on_the_target_sees_nothing_there(versions: Place) -> None:
    """A transaction that began on the target before the copy has no partition there, rather than an empty one; once
    the partition is there, its rows are frozen, so that the snapshot sees them."""
    target = versions.other(0)
    with versions.session(target, 0, "REPEATABLE READ") as cursor:
        cursor.execute("SELECT count(*) FROM pg_class")
        with pytest.raises(psycopg2.Error) as caught:
            cursor.execute(COUNT)
        assert caught.value.pgcode == "42P01"
    with versions.session(target, 0, "REPEATABLE READ") as cursor:
        cursor.execute("SELECT count(*) FROM pg_class")
        move_partition(versions.router, 0, target)
        cursor.execute(COUNT)
        assert cursor.fetchone()[0] > 0
