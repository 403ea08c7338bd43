"""Moves whose writes a replication slot tells of: what it must tell, what is refused, and that nothing of it stays."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace

import psycopg2
import pytest
from psycopg2.extras import LogicalReplicationConnection
from sqlalchemy.engine import make_url

from shardpool import Sharded
from shardpool.config import MoveConfig
from shardpool.errors import CutoverTimeout, DigestMismatch, MoveError, PreflightFailed
from shardpool.local import LocalCluster
from shardpool.moves import keys, modes, move_partition, recover_moves
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Place, schema
from tests.moves.test_online import begins_again, spoil, written_at
from tests.support.backends import databases, plain_connection
from tests.support.waiting import eventually

PLAIN = f"{schema(0)}.plain"


def move(place: Place, partition: int = 0) -> None:
    report = move_partition(place.router, partition, place.other(partition), mode="logical")
    assert (report.mode, report.reason, report.leftovers) == ("logical", "asked for", ())


def key_of(place: Place, partition: int = 0) -> int:
    return next(key for key in range(60) if place.router.partition_of(key).id == partition)


# -- what is told -----------------------------------------------------------------------------------------------------

ODD_KEYS = ("tab\tand \\N", "line\nfeed", "täxt", "", 'it\'s "quoted"', "\\.", "r\rn", "\b\f\v")


def test_keys_of_every_kind(server_urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that COPY would take for something else, a key that is stored out of line, and one that changes."""
    with databases(server_urls[:2]) as urls:
        own = Place(shop_config(urls, partitions=1))
        try:
            own.router.create_schema(
                "CREATE TABLE notes (name text, at date, n int, long text, PRIMARY KEY (name, at));"
                "CREATE TABLE pairs (name text NOT NULL, n int); ALTER TABLE pairs REPLICA IDENTITY FULL;"
                "CREATE TABLE empty (name text PRIMARY KEY);",
                {name: Sharded("name") for name in ("notes", "pairs", "empty")},
            )
            long = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 60) i)"
            source = own.owner(0)
            with own.session(source, 0) as cursor:
                for name in ODD_KEYS:
                    cursor.execute("INSERT INTO notes VALUES (%s, '2024-02-29', 0), (%s, 'infinity', 0)", (name, name))
                    cursor.execute("INSERT INTO pairs SELECT %s, 0 FROM generate_series(1, 3)", (name,))
                cursor.execute(f"INSERT INTO notes VALUES ({long}, 'today', 0, repeat({long}, 9))")

            expected = []

            def rows(own: Place, shard: str) -> list[tuple[str, ...]]:
                queries = (f"SELECT t::text FROM {schema(0)}.{table} t ORDER BY 1" for table in ("notes", "pairs"))
                return [row for query in queries for row in own.sql(shard, query)]

            def write() -> None:
                with own.session(source, 0) as cursor:
                    cursor.execute("UPDATE notes SET n = n + 1")
                    cursor.execute("UPDATE notes SET at = at + 1 WHERE at < 'infinity' AND n % 3 = 1")
                    cursor.execute(
                        "UPDATE pairs SET n = n + 1 WHERE ctid IN (SELECT min(ctid) FROM pairs GROUP BY name)"
                    )
                    cursor.execute("DELETE FROM pairs WHERE name = 'täxt' AND n > 2")
                    cursor.execute("BEGIN; DELETE FROM notes; SAVEPOINT s; DELETE FROM pairs; ROLLBACK")
                expected.append(rows(own, source))

            points = ("capture:after", "copy:after", "verify:after", "catch_up:after")
            written_at(monkeypatch, {f"move:{it}": write for it in points})
            move(own)
            assert rows(own, own.owner(0)) == expected[-1]
            ((n,),) = own.sql(own.owner(0), f"SELECT DISTINCT n FROM {schema(0)}.notes")
            assert n == len(points)
            own.assert_clean()
        finally:
            own.close()


def test_transactions_that_are_prepared_meanwhile(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared after the slot's beginning and committed at any later time; or rolled back."""
    source, key = place.owner(0), key_of(place)
    update = f"UPDATE {PLAIN} SET extra = coalesce(extra, 0) + 1 WHERE customer_id = {key}"
    before = place.sql(source, f"SELECT coalesce(extra, 0) FROM {PLAIN} WHERE customer_id = {key}")

    def prepare(statement: str, gid: str) -> None:
        place.sql(source, f"BEGIN; {statement}; PREPARE TRANSACTION '{gid}'")

    written_at(
        monkeypatch,
        {
            "move:capture:after": lambda: prepare(update, "kept"),
            "move:copy:after": lambda: prepare(f"DELETE FROM {PLAIN} WHERE customer_id <> {key}", "gone"),
            "move:verify:after": lambda: place.sql(source, "COMMIT PREPARED 'kept'"),
            "move:catch_up:before": lambda: place.sql(source, "ROLLBACK PREPARED 'gone'"),
        },
    )
    move(place)
    found = place.sql(place.owner(0), f"SELECT extra FROM {PLAIN} WHERE customer_id = {key}")
    assert found == [(extra + 1,) for (extra,) in before]
    place.assert_clean()


def test_a_transaction_that_is_prepared_before(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot waits for it, wherever on the server it has written: refused beforehand, or given up in time."""
    source = place.owner(0)
    gid = f"before_{uuid.uuid4().hex[:8]}"
    place.sql(source, "CREATE TABLE public.unrelated (n int)")
    place.sql(source, f"BEGIN; INSERT INTO public.unrelated VALUES (1); PREPARE TRANSACTION '{gid}'")
    monkeypatch.setattr(place.router, "config", replace(place.config, moves=MoveConfig(patience=0.3)))
    try:
        with pytest.raises(CutoverTimeout, match=f"replication slot waits .*'{gid}"):
            move(place)
        monkeypatch.setattr(modes, "LONG", 0.0)
        with pytest.raises(PreflightFailed, match=f"would wait for prepared transaction '{gid}"):
            move(place)
    finally:
        place.sql(source, f"ROLLBACK PREPARED '{gid}'")
        place.sql(source, "DROP TABLE public.unrelated")
    monkeypatch.undo()
    move(place)
    place.assert_clean()


def test_a_truncate_undoes_the_move(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source = place.owner(0)
    empty = f"BEGIN; SELECT 1; TRUNCATE {schema(0)}.nothing_here; COMMIT"
    for point in ("move:copy:after", "move:catch_up:after"):
        written_at(monkeypatch, {point: lambda: place.sql(source, empty)})
        with pytest.raises(MoveError, match="was truncated while it was moved"):
            move(place)
        assert place.owner(0) == source
        place.assert_clean()


def noisy(own: Place, monkeypatch: pytest.MonkeyPatch, during: str = "copy") -> list[int]:
    """Have the server write 20 MB of log while a move copies, or does its first round of another step; return how many
    bytes a slot reads under the lock."""
    source, found, begun = own.owner(0), list[int](), list[str]()
    noise = "CREATE TEMPORARY TABLE t (); SELECT pg_logical_emit_message(true, 'noise', repeat('x', 1000000))"
    behind = (
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots "
        "WHERE database = current_database()"
    )

    def write() -> None:
        for _ in range(20 if begun else 0):
            own.sql(source, noise)
        begun.clear()

    def look() -> None:
        found.extend(number for (number,) in own.sql(source, behind))

    inside = {"copy": "move:copy:after"}.get(during, "move:round:committed")
    begin = {f"move:{during}:before": lambda: begun.append(during)}
    written_at(monkeypatch, {**begin, inside: write, "move:lock:before": look})
    return found


def test_little_is_read_while_writers_wait(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much the server has written meanwhile."""
    behind = noisy(place, monkeypatch)
    move(place)
    assert 0 <= max(behind) < 10_000_000


def test_little_is_read_after_a_long_round(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written during a round is read once more before writers wait, though no key was left to carry over."""
    behind = noisy(place, monkeypatch, during="catch_up")
    move(place)
    assert 0 <= max(behind) < 10_000_000


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoiling", "mending", "message"),
    [
        (
            "ALTER TABLE {}.plain REPLICA IDENTITY DEFAULT",
            "ALTER TABLE {}.plain REPLICA IDENTITY FULL",
            "no primary key",
        ),
        ("ALTER TABLE {}.orders REPLICA IDENTITY NOTHING", "ALTER TABLE {}.orders REPLICA IDENTITY DEFAULT", "not its"),
        (
            "CREATE UNIQUE INDEX other ON {0}.orders (id, customer_id); ALTER TABLE {0}.orders "
            "REPLICA IDENTITY USING INDEX other",
            "ALTER TABLE {0}.orders REPLICA IDENTITY DEFAULT; DROP INDEX {0}.other",
            "not its primary key",
        ),
        ("ALTER TABLE {}.nothing_here SET UNLOGGED", "ALTER TABLE {}.nothing_here SET LOGGED", "not logged"),
    ],
)
def test_tables_whose_rows_are_not_told(place: Place, spoiling: str, mending: str, message: str) -> None:
    """Published, they could not be updated any more; so nothing is created."""
    source = place.owner(0)
    place.sql(source, spoiling.format(schema(0)))
    try:
        with pytest.raises(PreflightFailed, match=message) as caught:
            move(place)
        assert 'use mode "trigger"' in str(caught.value)
    finally:
        place.sql(source, mending.format(schema(0)))
    place.assert_clean()


def test_an_identity_that_changes_after_the_check(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at again when it can change no more."""
    source = place.owner(0)
    spoiling = f"ALTER TABLE {PLAIN} REPLICA IDENTITY DEFAULT"
    written_at(monkeypatch, {"move:capture:before": lambda: place.sql(source, spoiling)})
    with pytest.raises(MoveError, match=r"cannot be followed: table plain has no primary key"):
        move(place)
    place.sql(source, f"ALTER TABLE {PLAIN} REPLICA IDENTITY FULL")
    place.assert_clean()


def test_a_role_that_may_not_replicate(server_urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    role = f"plain_{uuid.uuid4().hex[:8]}"
    with databases(server_urls[:2]) as urls:

        def everywhere(statement: str) -> None:
            for url in urls:
                connection = plain_connection(url)
                connection.cursor().execute(statement.format(database=make_url(url).database))
                connection.close()

        everywhere(f"CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {{database}} TO {role}")
        everywhere(f"GRANT CREATE ON SCHEMA public TO {role}")
        own = Place(shop_config([str(make_url(url).set(username=role)) for url in urls], partitions=1))
        try:
            own.router.create_schema("CREATE TABLE t (k int PRIMARY KEY)", {"t": Sharded("k")})
            with pytest.raises(PreflightFailed, match=r"may not replicate \(ALTER ROLE"):
                move(own)
            everywhere(f"ALTER ROLE {role} REPLICATION")
            behind = noisy(own, monkeypatch)
            move(own)  # no superuser is needed
            assert 0 <= max(behind) < 10_000_000
            own.assert_clean()
        finally:
            own.close()
        everywhere(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


@pytest.fixture
def small() -> Iterator[Place]:
    """Two servers without logical decoding, and with room for one slot."""
    settings = {"wal_level": "replica", "max_replication_slots": 1}
    with LocalCluster(shards=2, settings=settings) as cluster:
        place = Place(shop_config([cluster.url(name) for name in cluster.names], partitions=1))
        try:
            place.router.create_schema("CREATE TABLE t (k int PRIMARY KEY)", {"t": Sharded("k")})
            yield place
        finally:
            place.close()


def test_servers_that_are_not_set_up(small: Place) -> None:
    source = small.owner(0)
    small.sql(source, "SELECT pg_create_physical_replication_slot('taken')")
    with pytest.raises(PreflightFailed) as caught:
        move(small)
    assert "wal_level is replica" in str(caught.value) and "all 1 replication slots are taken" in str(caught.value)
    assert move_partition(small.router, 0, small.other(0)).mode == "trigger"


# -- the checker is checked -------------------------------------------------------------------------------------------


def slot_of(place: Place) -> str:
    ((name,),) = place.sql(
        place.owner(0), "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
    )
    return str(name)


UNPUBLISHED = f"ALTER PUBLICATION {{log}} DROP TABLE {PLAIN}"
REPUBLISHED = f"{UNPUBLISHED}; ALTER PUBLICATION {{log}} ADD TABLE {PLAIN}"


@pytest.mark.parametrize(
    ("statement", "point", "error", "message"),
    [
        (UNPUBLISHED, "move:copy:after", DigestMismatch, "plain"),
        (UNPUBLISHED, "move:verify:after", MoveError, "dropped or changed"),
        (REPUBLISHED, "move:verify:after", MoveError, "dropped or changed"),
        ("DROP PUBLICATION {log}", "move:verify:after", MoveError, "publication"),
        ("TRUNCATE {log}.alive", "move:verify:after", MoveError, "has crashed"),
        ("DROP SCHEMA {log} CASCADE", "move:verify:after", MoveError, "is gone"),
        (
            f"ALTER TABLE {PLAIN} REPLICA IDENTITY NOTHING",
            "move:verify:after",
            MoveError,
            "cannot update|cannot delete",
        ),
    ],
)
def test_capture_that_is_off_is_noticed(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
    point: str,
    error: type[Exception],
    message: str,
) -> None:
    source = place.owner(0)
    written_at(monkeypatch, {point: spoil(place, statement)})
    with pytest.raises(error, match=message):
        move(place)
    place.sql(source, f"ALTER TABLE {PLAIN} REPLICA IDENTITY FULL")
    assert place.owner(0) == source
    place.assert_clean()


READ_BY_ANOTHER = (
    "SELECT count(*) FROM pg_logical_slot_get_binary_changes('{slot}', NULL, NULL, 'proto_version', '1', "
    "'publication_names', '{log}')"
)


DROPPED = "SELECT pg_drop_replication_slot('{slot}')"


@pytest.mark.parametrize(
    ("statement", "point", "message"),
    [
        (READ_BY_ANOTHER, "move:copy:after", "the copy differs"),
        (READ_BY_ANOTHER, "move:catch_up:after", "somebody has read from it"),
        (DROPPED, "move:copy:after", "replication slot .* is gone"),
        (DROPPED, "move:catch_up:after", "replication slot .* is gone"),
    ],
)
def test_a_slot_that_is_taken_away(
    place: Place, monkeypatch: pytest.MonkeyPatch, statement: str, point: str, message: str
) -> None:
    source = place.owner(0)

    def take_away() -> None:
        name = slot_of(place)
        spoil(place, f"UPDATE {PLAIN} SET extra = coalesce(extra, 0) + 1")()
        spoil(place, statement.replace("{slot}", name))()

    written_at(monkeypatch, {point: take_away})
    with pytest.raises(MoveError, match=message):
        move(place)
    assert place.owner(0) == source
    place.assert_clean()


@pytest.mark.parametrize("broken", ["unread", "old_keys", "one_table"])
def test_a_stream_that_is_misread_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """By the digests: nothing else stands between such a fault and a lost row."""
    source, key = place.owner(0), key_of(place)
    honest = keys.KeyReader.read

    def misread(self: keys.KeyReader, message: bytes) -> Iterator[tuple[str, keys.Key]]:
        for table, found in honest(self, message):
            if broken == "unread" or (broken == "one_table" and table == "plain"):
                continue
            yield table, found
            if broken == "old_keys":
                break

    monkeypatch.setattr(keys.KeyReader, "read", misread)

    def write() -> None:
        with place.session(source, 0) as cursor:
            cursor.execute(f"UPDATE orders SET id = id + 5000 WHERE customer_id = {key}")
            cursor.execute("UPDATE plain SET extra = coalesce(extra, 0) + 1")

    written_at(monkeypatch, {"move:copy:after": write})
    with pytest.raises(DigestMismatch):
        move(place)
    place.assert_clean()


# -- nothing stays ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoiling", ["SELECT pg_drop_replication_slot('{slot}')", "DROP PUBLICATION {log}"])
def test_a_move_whose_slot_is_gone_begins_again(place: Place, spoiling: str) -> None:
    """As after a failover."""
    begins_again(place, "logical", lambda: spoil(place, spoiling.replace("{slot}", slot_of(place)))())


def test_a_slot_that_is_in_use_is_dropped_later(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source = place.owner(0)
    url = make_url(place.config.shards[source].url).set(drivername="postgresql").render_as_string(hide_password=False)
    other = psycopg2.connect(url, connection_factory=LogicalReplicationConnection)

    def read_it() -> None:
        ((log,),) = place.sql(source, "SELECT pubname FROM pg_publication")
        options = {"proto_version": "1", "publication_names": log}
        other.cursor().start_replication(slot_of(place), options=options)

    written_at(monkeypatch, {"move:copy:after": read_it})
    with pytest.raises(MoveError, match="is active for PID"):
        move(place)
    ((left,),) = place.catalog("SELECT name FROM shardpool_catalog.cleanup")
    assert "capture" in left and place.owner(0) == source
    other.close()

    def dropped() -> bool:
        recover_moves(place.router)
        return place.catalog("SELECT name FROM shardpool_catalog.cleanup") == []

    eventually(dropped, "the slot is free")
    place.assert_clean()
