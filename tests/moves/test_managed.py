"""Moves by a role of a managed service: no superuser, which acts as another role and sees no sessions but its own."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from shardpool import Router, Sharded
from shardpool.bulk.foreground import others_work
from shardpool.bulk.watcher import Watcher
from shardpool.config import Endpoint
from shardpool.errors import MoveError, MoveInProgress, PreflightFailed, SchemaError
from shardpool.moves import change_partitions, move_partition, plan_merge, plan_split
from shardpool.moves.locks import break_move_lock, move_locked
from shardpool.moves.record import Mode, MoveRecord
from shardpool.moves.recovery import care_for_moves
from shardpool.moves.servers import configure, end_sessions
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Background, Place, schema
from tests.support.backends import plain_connection
from tests.support.managed import managed_databases, run
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def managed(server_urls: list[str]) -> Iterator[Place]:
    with managed_databases(server_urls[:2]) as urls:
        config = shop_config(urls, partitions=2)
        own = Place(replace(config, moves=replace(config.moves, patience=20.0)))
        try:
            own.router.create_schema("CREATE TABLE lines (key bigint PRIMARY KEY, n int)", {"lines": Sharded("key")})
            own.router.copy_into("lines", [(key, 0) for key in range(100)])
            yield own
        finally:
            own.close()


def a_record(place: Place) -> MoveRecord:
    return MoveRecord(77, "shop", 0, "s0", "s1", 1, "copy", 1, {})


def test_sessions_of_a_dead_mover_are_ended(managed: Place) -> None:
    record = a_record(managed)
    with managed.router.engines.borrow("s0") as left:
        configure(left, record.session_name)
        end_sessions(managed.router, record, "s0")
        with pytest.raises(psycopg2.OperationalError):
            left.cursor().execute("SELECT 1")


def test_sessions_that_another_role_left_are_told(managed: Place) -> None:
    record = a_record(managed)
    other = plain_connection(as_superuser(managed, "s0"))
    try:
        other.cursor().execute(f"SET application_name = '{record.session_name}'")
        with pytest.raises(MoveError, match="GRANT pg_signal_backend"):
            end_sessions(managed.router, record, "s0")
    finally:
        other.close()


def test_the_lock_of_a_frozen_mover_is_taken_away(managed: Place) -> None:
    with move_locked(managed.router, 1):
        with pytest.raises(MoveInProgress), move_locked(managed.router, 1):
            pass
        break_move_lock(managed.router, 1)
        with move_locked(managed.router, 1, patience=10.0):
            pass


@pytest.mark.parametrize("mode", ["trigger", "block"])
def test_writers_of_another_role_do_not_hold_a_move_up(managed: Place, mode: Mode) -> None:
    """How old their transactions are is hidden; there is never a moment without one."""
    source, target = managed.owner(0), managed.other(0)
    ended = threading.Event()
    begun: list[int] = []

    def write(number: int) -> None:
        connection = plain_connection(as_superuser(managed, source))
        try:
            with connection.cursor() as cursor:
                while not ended.is_set():
                    cursor.execute("BEGIN")
                    cursor.execute(f"UPDATE {schema(0)}.lines SET n = n + 1 WHERE key = %s", (keys[number],))
                    cursor.execute("SELECT pg_sleep(0.02)")
                    cursor.execute("COMMIT")
                    begun.append(number)
        except psycopg2.errors.UndefinedTable:
            pass  # the fence
        finally:
            connection.close()

    keys = [row[0] for row in managed.sql(source, f"SELECT key FROM {schema(0)}.lines ORDER BY 1 LIMIT 3")]
    writers = [Background(lambda number=number: write(number)) for number in range(3)]
    try:
        eventually(lambda: set(begun) == {0, 1, 2}, "all write")
        move_partition(managed.router, 0, target, mode=mode)
    finally:
        ended.set()
        for writer in writers:
            writer.wait()
    assert managed.owner(0) == target
    ((total,),) = managed.sql(target, f"SELECT sum(n) FROM {schema(0)}.lines")
    assert total >= len(begun)
    managed.assert_clean()


def test_moves_make_way_for_their_own_role(managed: Place) -> None:
    """The statistics show what the role that logged in does to itself only, and not to the one that it acts as."""
    watcher = Watcher(managed.router.engines, "s0")
    with managed.session("s0") as cursor:
        statement = Background(lambda: cursor.execute("SELECT pg_sleep(60)"))
        try:
            eventually(lambda: others_work(watcher), "the others are seen")
        finally:
            watcher.close()
            cursor.connection.cancel()
            eventually(lambda: statement.done, "it has ended")


def test_what_an_administrator_changes_stays_the_applications(managed: Place) -> None:
    """Who creates a table owns it, and an owner's rights are no grants that would travel."""
    router = managed.router
    with router_of(managed, "shardpool") as administrator:
        move_partition(administrator, 0, managed.other(0), keep=600)
        router.query("UPDATE lines SET n = 7")
        care_for_moves(router)
        move_partition(router, 0, managed.other(0))
        report = change_partitions(administrator, plan_split(administrator, 1))
        script = "CREATE TABLE more (key bigint PRIMARY KEY); ALTER TABLE lines ADD COLUMN t text"
        administrator.create_schema(script, {"more": Sharded("key")})
    router.refresh()
    router.query("UPDATE lines SET n = 8, t = 'x' WHERE n = 7")
    assert router.query("SELECT count(*) FROM lines WHERE n = 8").scalar_one() == 100
    router.query("INSERT INTO more VALUES (1), (2), (3)")
    change_partitions(router, plan_merge(router, report.partitions))
    managed.assert_clean()


def test_no_right_comes_with_a_move(managed: Place) -> None:
    """Default privileges of the target are not those of the tables."""
    source, target = managed.owner(0), managed.other(0)
    ((app, owner),) = managed.sql(target, "SELECT session_user, current_user")
    default = f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} {{}} ON TABLES {{}} {app}"
    run(as_superuser(managed, target), default.format("GRANT SELECT, INSERT", "TO"))
    managed.sql(source, f"GRANT UPDATE (n) ON {schema(0)}.lines TO {app}")
    try:
        move_partition(managed.router, 0, target)
        name = f"'{schema(0)}.lines'"
        asked = (
            f"has_table_privilege(session_user, {name}, 'SELECT')",
            f"has_column_privilege(session_user, {name}, 'n', 'UPDATE')",
        )
        assert managed.sql(target, f"SELECT {', '.join(asked)}") == [(False, True)]
    finally:
        run(as_superuser(managed, target), default.format("REVOKE SELECT, INSERT", "FROM"))


def test_a_stranger_changes_nothing(managed: Place) -> None:
    stranger = f"stranger_{uuid.uuid4().hex[:12]}"
    superuser = as_superuser(managed, "s0")
    database = make_url(superuser).database
    for name in managed.config.shards:
        run(as_superuser(managed, name), f"CREATE ROLE {stranger} LOGIN")
        run(as_superuser(managed, name), f"GRANT ALL ON DATABASE {database} TO {stranger}")
    try:
        with router_of(managed, stranger, catalog=superuser) as router:
            with pytest.raises(PreflightFailed, match="belongs to another role"):
                move_partition(router, 0, managed.other(0))
            with pytest.raises(SchemaError, match="permission denied"):
                router.create_schema("CREATE TABLE mine (key bigint PRIMARY KEY)", {"mine": Sharded("key")})
    finally:
        for name in managed.config.shards:
            run(as_superuser(managed, name), f"DROP OWNED BY {stranger}", f"DROP ROLE {stranger}")


def router_of(place: Place, role: str, catalog: str | None = None) -> Router:
    """A router whose sessions are those of a role."""
    urls = {name: make_url(it.url).set(username=role) for name, it in place.config.shards.items()}
    shards = {name: Endpoint(url.render_as_string(hide_password=False)) for name, url in urls.items()}
    found = replace(place.config, catalog=shards["s0"] if catalog is None else Endpoint(catalog), shards=shards)
    return Router(found, listen=False)


def as_superuser(place: Place, shard: str) -> str:
    """The URL of a shard for a role whose sessions the managed one neither sees nor ends."""
    return make_url(place.config.shards[shard].url).set(username="shardpool").render_as_string(hide_password=False)
