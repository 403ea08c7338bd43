"""A column of a table with rows becomes unique over all partitions, beside writers who know nothing of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from shardpool import Config, Reference, Router, Sharded
from shardpool.errors import (
    DigestMismatch,
    MoveInProgress,
    MoveTakenOver,
    NotUnique,
    PreflightFailed,
    SchemaBusy,
    SchemaError,
    StalePlacement,
    UnsupportedStatement,
)
from shardpool.executor import current, ids, statements, writes
from shardpool.jobs.digest import differing_reservations
from shardpool.moves import move_partition
from shardpool.moves.unique import (
    UniqueProgress,
    add_unique,
    build,
    drop_unique,
    fill,
    plan_unique,
    unfinished_build,
)
from shardpool.moves.unique.record import Builds
from shardpool.topology.tables import Table
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Background, Gates
from tests.moves.unique_tools import Late, Writer, agrees, emails, make_table, state_of
from tests.support.backends import databases

SEED = int(os.environ.get("SHARDPOOL_SEED", "1"))
#: How often a column becomes unique, and ceases to be, beside writers.
ROUNDS = int(os.environ.get("SHARDPOOL_UNIQUE", "1"))
ODD = 'odd %s "t"'
NOTHING = {"unique": {}, "building": {}, "builds": []}


@pytest.fixture(scope="module")
def config(server_urls: list[str]) -> Iterator[Config]:
    with databases(server_urls[:2]) as urls:
        found = shop_config(urls)
        Router.initialise(found)
        yield found


@pytest.fixture(scope="module")
def shop(config: Config) -> Iterator[Router]:
    with Router(config) as router:
        router.create_schema("CREATE TABLE country (code text PRIMARY KEY, name text)", {"country": Reference()})
        yield router


@pytest.fixture
def table(shop: Router, request: pytest.FixtureRequest) -> Iterator[str]:
    """A table of the test's own, with 3,000 rows."""
    name = f"t{abs(hash(request.node.name)) % 10**9}"
    make_table(shop, name)
    yield name
    shop.refresh()
    if name in shop.topology.tables:
        for column in dict(shop.topology.tables[name].unique):
            drop_unique(shop, name, column)
        shop.create_schema(f"DROP TABLE {name}")


def test_a_table_with_rows(shop: Router, table: str) -> None:
    before = [it.id for it in shop.shard_map.partitions]
    seen: list[UniqueProgress] = []
    plan = plan_unique(shop, table, "email", "emails")
    assert f"make {table}.email unique over 4 partitions, by emails" in str(plan) and plan.duplicates == ()
    report = add_unique(shop, table, "email", "emails", progress=seen.append)
    assert (report.rows, report.reservations) == (3000, "emails")
    assert list(dict.fromkeys(it.step for it in seen)) == ["create", "renumber", "fill", "prove", "done"]
    assert not {it.id for it in shop.shard_map.partitions} & set(before)
    assert agrees(shop, table, "emails") == []
    assert shop.find_key(table, email="still 7") == 100_007
    with pytest.raises(IntegrityError, match="emails_pkey"):
        shop.query(f"INSERT INTO {table} (id, email) VALUES (1, 'still 7')")
    with pytest.raises(PreflightFailed, match="unique already, by emails"):
        plan_unique(shop, table, "email")
    drop_unique(shop, table, "email")
    assert state_of(shop, table) == NOTHING and "emails" not in shop.topology.tables
    shop.query(f"INSERT INTO {table} (id, email) VALUES (1, 'still 7')")


def test_scripts_declare_it_from_then_on(shop: Router, table: str) -> None:
    """And can then be applied again, with what was created for it in them or not."""
    words = f"CREATE TABLE {table} (id bigint PRIMARY KEY, email text, visits int DEFAULT 0)"
    add_unique(shop, table, "email", "emails")
    kinds = {table: Sharded("id", {"email": "emails"}), "emails": Sharded("email")}
    script = f"{words}; CREATE TABLE emails (email text PRIMARY KEY, id bigint NOT NULL)"
    assert {it.state for it in shop.create_schema(script, kinds)} == {"unchanged"}
    assert {it.state for it in shop.create_schema(words, {table: kinds[table]})} == {"unchanged"}
    with pytest.raises(SchemaError, match=r"SP214.*none; it exists with: email"):
        shop.create_schema(words, {table: Sharded("id")})
    shop.create_schema(f"ALTER TABLE {table} ADD COLUMN more int")
    assert dict(shop.topology.tables[table].unique) == {"email": "emails"}


@pytest.mark.parametrize("number", range(ROUNDS))
def test_beside_writers(shop: Router, config: Config, table: str, number: int) -> None:
    """Of routers that listen, that hear nothing, and one that sends what it meant long before; nobody gets an error."""
    print(f"SHARDPOOL_SEED={SEED + number}")
    with Router(config, listen=False) as deaf, Router(config, listen=False) as frozen, Router(config) as other:
        writers = [Writer(it, table, at, SEED + number) for at, it in enumerate([shop, deaf, deaf, other])]
        for writer in writers:
            writer.start()
        late = Late(frozen)
        words = f"INSERT INTO {table} (id, email) VALUES (99, 'late')"
        sent = Background(lambda: frozen.execute(99, words))
        late.reached()
        add_unique(shop, table, "email", "emails")
        late.thaw()
        sent.wait()
        expected: dict[int, str | None] = {99: "late"}
        for writer in writers:
            expected |= writer.end()
        assert emails(shop, table) == expected
        assert agrees(shop, table, "emails") == []
        assert all(len(writer.done) >= 4 for writer in writers), [writer.done for writer in writers]
        # And again, until it is not unique any more.
        writers = [Writer(it, table, at + 4, SEED + number) for at, it in enumerate([shop, deaf, other])]
        for writer in writers:
            writer.start()
        drop_unique(shop, table, "email")
        for writer in writers:
            expected |= writer.end()
        assert emails(shop, table) == expected and state_of(shop, table) == NOTHING


def test_what_is_there_twice_is_told(shop: Router, table: str) -> None:
    """Also what comes in while it is looked at; then nothing is left of it."""
    shop.query(f"UPDATE {table} SET email = 'twice' WHERE id IN (100001, 102000)")
    with pytest.raises(NotUnique, match=r"'twice' \(keys 100001 and 102000\)") as caught:
        add_unique(shop, table, "email", "emails")
    assert len(caught.value.duplicates) == 1
    assert state_of(shop, table) == NOTHING and "emails" not in shop.topology.tables


@pytest.mark.parametrize("keys", [(1, 2), (1, 100_001)])
def test_what_comes_in_twice_meanwhile(
    shop: Router, config: Config, table: str, gates: Gates, keys: tuple[int, int]
) -> None:
    """Routers write it before their partitions have new numbers, one that hears nothing, and one that knows."""
    gates.close("unique:begun")
    with Router(config, listen=False) as deaf:
        making = Background(lambda: add_unique(shop, table, "email", "emails"))
        gates.wait_for("unique:begun")
        with Router(config, listen=False) as knowing:
            for router, key in zip((deaf, knowing), keys, strict=True):
                if key < 100:
                    router.query(f"INSERT INTO {table} (id, email) VALUES (:key, 'twice')", {"key": key})
                else:
                    router.query(f"UPDATE {table} SET email = 'twice' WHERE id = :key", {"key": key})
        gates.open("unique:begun")
        with pytest.raises(NotUnique, match="'twice'"):
            making.wait(60)
    assert state_of(shop, table) == NOTHING and "emails" not in shop.topology.tables
    assert len(emails(shop, table)) == sum(key < 100 for key in keys)


def test_rows_of_one_key_that_have_one_value(shop: Router) -> None:
    """Their reservations are alike: only their number tells."""
    shop.create_schema(
        "CREATE TABLE lines (id bigint, line int, code text, PRIMARY KEY (id, line))", {"lines": Sharded("id")}
    )
    shop.query("INSERT INTO lines SELECT n % 300, n / 300, 'c' || n FROM generate_series(0, 2999) n")
    add_unique(shop, "lines", "code")
    assert agrees_lines(shop)
    drop_unique(shop, "lines", "code")
    shop.query("UPDATE lines SET code = 'same' WHERE id = 7 AND line IN (1, 8)")
    with pytest.raises(NotUnique, match=r"'same' \(keys 7 and 7\)"):
        add_unique(shop, "lines", "code")
    assert state_of(shop, "lines") == NOTHING


def agrees_lines(router: Router) -> bool:
    rows = sorted(tuple(row) for row in router.query("SELECT code, id FROM lines"))
    return rows == sorted(tuple(row) for row in router.query("SELECT code, id FROM lines_code"))


def test_rows_of_one_key_where_the_plan_sees_nothing(shop: Router, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.create_schema(
        "CREATE TABLE twins (id bigint, line int, code text, PRIMARY KEY (id, line))", {"twins": Sharded("id")}
    )
    shop.query(
        "INSERT INTO twins SELECT 1, n, CASE WHEN n IN (5, 2500) THEN 'same' ELSE 'c' || n END "
        "FROM generate_series(1, 3000) n"
    )
    monkeypatch.setattr("shardpool.moves.unique.plan._duplicates", lambda *_: None)
    with pytest.raises(NotUnique, match=r"'same' \(keys 1 and 1\)"):
        add_unique(shop, "twins", "code")
    assert state_of(shop, "twins") == NOTHING


@pytest.mark.parametrize(
    ("point", "error"),
    [
        ("unique:created", KeyboardInterrupt),
        ("move:fence:after", KeyboardInterrupt),
        ("unique:fenced-one", MoveTakenOver),
        ("unique:filled-one", KeyboardInterrupt),
    ],
)
def test_an_interrupt_leaves_nothing(
    shop: Router, table: str, monkeypatch: pytest.MonkeyPatch, point: str, error: type[BaseException]
) -> None:
    def interrupt(name: str) -> None:
        if name == point:
            monkeypatch.undo()
            raise error

    monkeypatch.setattr("shardpool.faults.fault_point", interrupt)
    with pytest.raises(error):
        add_unique(shop, table, "email", "emails")
    assert state_of(shop, table) == NOTHING and "emails" not in shop.topology.tables


def test_others_keep_out_meanwhile(shop: Router, config: Config, table: str, gates: Gates) -> None:
    """A second one, moves, schema changes."""
    gates.close("unique:filled-one")
    making = Background(lambda: add_unique(shop, table, "email", "emails"))
    gates.wait_for("unique:filled-one")
    with Router(config) as other:
        with pytest.raises(MoveInProgress, match="another process makes a column unique"):
            add_unique(other, table, "email", "emails")
        with pytest.raises(MoveInProgress):
            drop_unique(other, table, "email")
        first = other.shard_map.placements[0]
        with pytest.raises(PreflightFailed, match=f"{table}.email is being made unique"):
            move_partition(other, first.partition.id, next(it for it in other.shard_map.shards if it != first.shard))
        with pytest.raises(SchemaBusy, match="SP272"):
            other.create_schema(f"ALTER TABLE {table} ADD COLUMN more int")
        with pytest.raises(UnsupportedStatement, match="SP139"):
            other.query("DELETE FROM emails")
    gates.open("unique:filled-one")
    making.wait(60)
    assert agrees(shop, table, "emails") == []


def test_who_was_followed_by_another_changes_nothing_any_more(shop: Router, table: str, gates: Gates) -> None:
    gates.close("unique:filled-one")
    making = Background(lambda: add_unique(shop, table, "email", "emails"))
    gates.wait_for("unique:filled-one")
    left = unfinished_build(shop.catalog)
    assert left is not None
    Builds(shop.catalog).take_over(left)
    gates.open("unique:filled-one")
    with pytest.raises(MoveTakenOver, match=r"making .* unique was taken over"):
        making.wait(60)
    assert state_of(shop, table)["builds"] == [(table, "building")]
    add_unique(shop, table, "email")
    assert agrees(shop, table, "emails") == []


def test_what_cannot_be_unique(shop: Router, table: str) -> None:
    shop.create_schema(
        f"CREATE TABLE loose (id bigint NOT NULL, price numeric, email text); "
        f"CREATE TABLE held (id bigint PRIMARY KEY REFERENCES {table} ON DELETE CASCADE, email text)",
        {"loose": Sharded("id"), "held": Sharded("id")},
    )
    try:
        for name, column, told in (
            ("loose", "price", "no primary key"),
            ("loose", "price", "price is numeric"),
            ("loose", "id", "no stored column beside the key"),
            (table, "nothing", "no stored column beside the key"),
            ("country", "name", "no sharded table"),
            ("held", "email", "foreign key held_id_fkey changes or deletes rows"),
        ):
            with pytest.raises(PreflightFailed, match=told):
                plan_unique(shop, name, column)
        with pytest.raises(PreflightFailed, match="table 'loose' exists"):
            plan_unique(shop, table, "email", "loose")
    finally:
        shop.create_schema("DROP TABLE held; DROP TABLE loose")


def test_odd_names_and_types(shop: Router) -> None:
    """A composite key, names with quotes and percent signs, a length, bytes; NULLs are no values."""
    shop.create_schema(
        'CREATE TABLE "odd %s ""t""" ("a %(b)s" text, d date, "the code" varchar(12), raw bytea, u uuid, '
        'PRIMARY KEY (d, "a %(b)s"))',
        {ODD: Sharded(("a %(b)s", "d"))},
    )
    table = '"odd %s ""t"""'
    shop.query(
        f"INSERT INTO {table} SELECT 'k' || n % 7, DATE '2024-01-01' + n, CASE WHEN n % 5 > 0 THEN 'c ' || n END, "
        "decode(lpad(to_hex(n), 8, '0'), 'hex'), CAST(lpad(CAST(n AS text), 32, '0') AS uuid) "
        "FROM generate_series(1, 1500) n"
    )
    for column, rows in (("the code", 1200), ("raw", 1500), ("u", 1500)):
        assert add_unique(shop, ODD, column, f"of {column} %").rows == rows
    assert differing_reservations(shop.engines, shop.topology) == {}
    assert shop.find_key(ODD, **{"the code": "c 8"}) == ("k1", date(2024, 1, 9))
    assert shop.find_key(ODD, raw=b"\x00\x00\x00\x08") == ("k1", date(2024, 1, 9))
    shop.query(f"DELETE FROM {table} WHERE \"the code\" = 'c 8'")
    assert shop.find_key(ODD, raw=b"\x00\x00\x00\x08") is None
    for column in ("raw", "the code", "u"):
        drop_unique(shop, ODD, column)
    assert state_of(shop, ODD) == NOTHING


def test_a_move_whose_way_back_is_kept(shop: Router, table: str) -> None:
    first = shop.shard_map.placements[0]
    target = next(it for it in shop.shard_map.shards if it != first.shard)
    move_partition(shop, first.partition.id, target, mode="trigger", keep=600)
    with pytest.raises(PreflightFailed, match="way back is kept"):
        add_unique(shop, table, "email", "emails")
    move_partition(shop, first.partition.id, first.shard)
    add_unique(shop, table, "email", "emails")
    assert agrees(shop, table, "emails") == []


def test_an_open_job_that_follows_partitions(shop: Router, table: str) -> None:
    words = (
        "INSERT INTO shardpool_catalog.job (id, keyspace, name, kind, spec, digest, state) "
        "VALUES (gen_random_uuid(), 'shop', 'copies', 'replicate', '{}', '', 'paused')"
    )
    with shop.catalog.begin() as connection:
        connection.exec_driver_sql(words)
    try:
        with pytest.raises(PreflightFailed, match="job 'copies' follows the partitions"):
            plan_unique(shop, table, "email")
    finally:
        with shop.catalog.begin() as connection:
            connection.exec_driver_sql("DELETE FROM shardpool_catalog.job")


# -- planted faults -------------------------------------------------------------------------------------------------


def test_without_the_fence_rows_are_not_reserved(
    shop: Router, config: Config, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router that hears nothing goes on as before."""
    monkeypatch.setattr(build._Making, "_renumber", _reserved_from_the_first)
    with Router(config, listen=False) as deaf:
        deaf.query(f"SELECT count(*) FROM {table}")
        add_unique(shop, table, "email", "emails")
        deaf.query(f"INSERT INTO {table} (id, email) VALUES (1, 'still 7')")
    assert "a value is there twice" in agrees(shop, table, "emails")


def _reserved_from_the_first(making: Any, found: Any) -> float:
    with making._router.catalog.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE shardpool_catalog.keyspace_table SET definition = jsonb_set(definition, '{building,email}', '0') "
            f"WHERE name = '{found.table}'"
        )
        making._router.catalog.bump(connection)
    return 0.0


def test_a_plan_of_an_old_map_does_not_fit(
    shop: Router, config: Config, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check, a statement that fails as stale would be run again as it was planned, and reserve nothing."""
    words = f"INSERT INTO {table} (id, email) VALUES (:key, :email)"
    with Router(config, listen=False) as deaf:
        deaf.execute(1, words, {"key": 1, "email": "one"})
        add_unique(shop, table, "email", "emails")
        deaf.execute(2, words, {"key": 2, "email": "two"})
        assert agrees(shop, table, "emails") == []
    drop_unique(shop, table, "email")
    for module in (current, statements, writes, ids):
        monkeypatch.setattr(module, "check_plan", lambda *_: None)
    with Router(config, listen=False) as deaf:
        deaf.execute(3, words, {"key": 3, "email": "three"})
        add_unique(shop, table, "email", "emails")
        deaf.execute(4, words, {"key": 4, "email": "four"})
        assert agrees(shop, table, "emails") != []


def test_who_routes_before_it_is_unique_finds_nothing(
    shop: Router, table: str, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: a row that is there is not found, because it is not reserved yet."""
    gates.close("unique:filled-one")
    making = Background(lambda: add_unique(shop, table, "email", "emails"))
    gates.wait_for("unique:filled-one")
    last = fill.partitions_of(shop.topology)[-1]
    number = next(n for n in range(1, 3000) if shop.partition_of(100_000 + n).id == last)
    with pytest.raises(ValueError, match="it has none"):
        shop.find_key(table, email=f"still {number}")
    with monkeypatch.context() as patch:
        patch.setattr(Table, "unique_columns", property(lambda it: dict(it.unique)))
        assert shop.find_key(table, email=f"still {number}") is None
    gates.open("unique:filled-one")
    making.wait(60)
    assert shop.find_key(table, email=f"still {number}") == 100_000 + number


@pytest.mark.parametrize("locked", [True, False])
def test_a_row_that_goes_between_the_look_and_its_reservation(
    shop: Router, table: str, gates: Gates, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    """It cannot: its lock is held. Without that, the proof finds a reservation of no row, and all is undone."""
    monkeypatch.setattr(fill, "CHUNK_ROWS", 100_000)
    monkeypatch.setattr(build, "ROUNDS", 2)
    reserve, lock = fill.Filler._reserve, fill.Filler._on_partition
    gates.close("before")

    def slowly(filler: Any, transaction: Any, rows: Any) -> Any:
        fill.faults.fault_point("before")
        return reserve(filler, transaction, rows)

    monkeypatch.setattr(fill.Filler, "_reserve", slowly)
    if not locked:
        monkeypatch.setattr(
            fill.Filler,
            "_on_partition",
            lambda it, tx, at, words, *more: lock(it, tx, at, words.replace("FOR SHARE", ""), *more),
        )
    making = Background(lambda: add_unique(shop, table, "email", "emails"))
    gates.wait_for("before")
    first = next(iter(fill.partitions_of(shop.topology)))
    gone = next(n for n in range(100_001, 103_000) if shop.partition_of(n).id == first)
    deleting = Background(lambda: shop.query(f"DELETE FROM {table} WHERE id = :key", {"key": gone}))
    if not locked:
        deleting.wait()
    gates.open("before")
    if locked:
        making.wait(60)
        deleting.wait()
        assert agrees(shop, table, "emails") == []
        return
    with pytest.raises(DigestMismatch, match="goes around the router"):
        making.wait(60)
    assert state_of(shop, table) == NOTHING


def test_a_load_beside_new_numbers_is_to_be_loaded_again(shop: Router, table: str, gates: Gates) -> None:
    gates.close("unique:fenced-one")
    making = Background(lambda: add_unique(shop, table, "email", "emails"))
    gates.wait_for("unique:fenced-one")
    with pytest.raises(StalePlacement, match="just being made unique"):
        shop.copy_into(table, [(1, "one", 0)])
    gates.open("unique:fenced-one")
    making.wait(60)
    shop.copy_into(table, [(1, "one", 0)])
    assert agrees(shop, table, "emails") == []
