"""Schema changes on real servers: what reaches every partition, and what is refused with nothing changed anywhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from shardpool.ddl.session import ShardSession
from shardpool.errors import SchemaBusy, SchemaError, ShardUnavailable
from shardpool.topology.tables import Reference, Sharded
from tests.ddl.ddl_tools import PARTITIONS, SHARDS, SHOP, TABLES, Place
from tests.support.waiting import eventually


@contextmanager
def refused(place: Place, code: str) -> Iterator[list[SchemaError]]:
    """The block raises the refusal *code*, and leaves shards and catalog as they were."""
    before = state(place)
    caught: list[SchemaError] = []
    with pytest.raises(SchemaError) as error:
        yield caught
    caught.append(error.value)
    assert error.value.code == code, error.value
    assert state(place) == before


def state(place: Place) -> object:
    """All columns, indexes, functions and marks on all shards, and the catalog's log and epoch."""
    shards = [
        place.sql(
            shard,
            "select n.nspname, c.relname, c.relkind, a.attname from pg_class c join pg_namespace n on "
            "n.oid = c.relnamespace left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 "
            "where n.nspname ~ '^(shop|public)' union all select n.nspname, proname, 'f', '' from pg_proc p "
            "join pg_namespace n on n.oid = p.pronamespace where n.nspname ~ '^(shop|public)' order by 1, 2, 4",
        )
        for shard in SHARDS
    ]
    return shards, place.log(), place.catalog.load()


def test_a_table_without_columns(place: Place) -> None:
    with refused(place, "SP273") as caught:
        place.manager.create_schema("CREATE TABLE nothing ()", {"nothing": Reference()})
    assert "'nothing'" in str(caught[0])
    place.manager.create_schema("CREATE TABLE something (a int)", {"something": Reference()})
    with refused(place, "SP273"):
        place.manager.create_schema("ALTER TABLE something DROP COLUMN a", {})


def test_a_script_reaches_every_partition_and_the_catalog(place: Place) -> None:
    reports = place.manager.create_schema(SHOP, TABLES)
    assert {it.state for it in reports} == {"applied"}
    for shard in SHARDS:
        assert place.tables_of(shard, "shop") == {"country"}
        for schema in PARTITIONS[shard]:
            assert place.tables_of(shard, schema) == {"customers", "orders"}
    topology = place.catalog.load()
    orders = topology.tables["orders"]
    assert [(it.name, it.type, it.not_null) for it in orders.columns] == [
        ("customer_id", "bigint", True),
        ("id", "bigint", True),
        ("total", "numeric(10,2)", True),
        ("parent", "bigint", False),
        ("note", "text", False),
    ]
    assert (orders.primary_key, orders.key) == (("customer_id", "id"), ("customer_id",))
    assert topology.tables["customers"].columns[1].collation == 'pg_catalog."C"'
    assert topology.tables["country"].key == ()
    assert topology.user_functions == {"touch"}
    assert {state for _, state in place.log()} == {"done"}
    assert place.drift() == []


def test_the_same_script_again_changes_nothing(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    before = state(place)
    reports = place.manager.create_schema(SHOP, TABLES)
    assert {it.state for it in reports} == {"unchanged"}
    assert state(place) == before


def test_another_definition_is_refused(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    with refused(place, "SP251") as caught:
        place.manager.create_schema("create table orders (customer_id bigint primary key)", {})
    assert "ALTER TABLE" in caught[0].hint


def test_an_added_column_reaches_all_partitions_and_the_catalog(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.manager.create_schema(SHOP + "alter table orders add column currency text default 'EUR' not null", TABLES)
    assert set(place.everywhere("orders", "currency").values()) == {True}
    column = place.catalog.load().tables["orders"].column("currency")
    assert column is not None
    assert (column.type, column.not_null) == ("text", True)
    assert place.drift() == []


def test_a_dropped_table_leaves_the_catalog(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.manager.create_schema("drop table orders; drop table if exists orders; drop function touch", {})
    topology = place.catalog.load()
    assert set(topology.tables) == {"customers", "country"}
    assert topology.user_functions == set()
    place.manager.create_schema("create table orders (id uuid primary key)", {"orders": Sharded("id")})
    assert place.catalog.load().tables["orders"].key == ("id",)
    assert place.drift() == []


def test_an_error_on_one_shard_leaves_nothing_anywhere(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.sql("s1", "insert into shop_p0003.customers (customer_id) values (1)")
    with refused(place, "SP263") as caught:
        place.manager.create_schema(
            "create type t as enum ('a'); create index i on customers (name); "
            "alter table customers add column born date not null",
            {},
        )
    assert "'s1'" in str(caught[0])
    assert "shop_p0003" in str(caught[0])
    assert "born date" in str(caught[0])


def test_the_first_error_cancels_the_other_shards(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.sql("s0", "insert into shop_p0000.customers (customer_id) values (1)")
    place.sql("s1", "create function public.slow() returns int language sql as 'select 1 from pg_sleep(60)'")
    place.sql("s0", "create function public.slow() returns int language sql as 'select 1 / 0'")
    place.sql("s1", "insert into shop_p0003.customers (customer_id) values (1)")
    started = time.monotonic()
    with refused(place, "SP263") as caught:
        place.manager.create_schema("alter table customers add column a int default slow()", {})
    assert "division by zero" in str(caught[0])
    assert time.monotonic() - started < 20


def test_other_sessions_are_waited_for_in_turns(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    waiting = (
        "select a.xact_start from pg_locks l join pg_stat_activity a using (pid) "
        "where not l.granted and l.relation = 'shop_p0002.orders'::regclass"
    )
    failures: list[BaseException] = []

    def change() -> None:
        try:
            place.manager.create_schema("alter table orders add column a int", {})
        except BaseException as error:
            failures.append(error)

    with place.connect("s1") as other, place.connect("s1") as watcher:
        watcher.autocommit = True
        other.cursor().execute("select from shop_p0002.orders")
        thread = threading.Thread(target=change)
        thread.start()
        seen = set()
        deadline = time.monotonic() + 60
        while len(seen) < 3 and thread.is_alive() and time.monotonic() < deadline:
            cursor = watcher.cursor()
            cursor.execute(waiting)
            seen.update(cursor.fetchall())
        # It has waited in three transactions, and let everything go in between.
        assert len(seen) == 3
        other.rollback()
        thread.join(60)
    assert failures == []
    assert set(place.everywhere("orders", "a").values()) == {True}


def test_what_another_attempt_did_meanwhile_is_seen(place: Place) -> None:
    """Also where the servers' default is one snapshot for a transaction: it would be older than the lock."""
    place.manager.create_schema(SHOP, TABLES)
    with place.connect("s1") as other, place.connect("s1") as connection:
        connection.cursor().execute("SET default_transaction_isolation = 'repeatable read'")
        connection.commit()
        earlier, later = (ShardSession("shop", "s1", (), it) for it in (other, connection))
        earlier.begin(60)
        thread = threading.Thread(target=later.begin, args=(60,))
        thread.start()
        waiting = "select from pg_locks where locktype = 'advisory' and not granted"
        eventually(lambda: earlier.run(waiting) != [], "the later attempt waits")
        earlier.run("INSERT INTO shop.shardpool_ddl (id) VALUES (4711)")
        other.commit()
        thread.join(60)
        assert later.applied([4711]) == {4711}


def test_locks_that_are_never_given_up(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.manager.attempts = 2
    with place.connect("s1") as other:
        other.cursor().execute("select from shop_p0002.orders")
        with refused(place, "SP264") as caught:
            place.manager.create_schema("alter table orders add column a int", {})
        other.rollback()
    assert caught[0].retryable
    assert "shop_p0002" in str(caught[0])


def test_somebody_else_changes_the_keyspace(place: Place) -> None:
    def busy() -> Exception:
        raise AssertionError("the test has the lock alone")

    with place.catalog.lock("topology", busy), refused(place, "SP260") as caught:
        place.manager.create_schema(SHOP, TABLES)
    assert isinstance(caught[0], SchemaBusy)


def test_a_move_is_under_way(place: Place) -> None:
    with place.catalog.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO shardpool_catalog.move (keyspace, partition, source, target, step, state) "
                "VALUES ('shop', 3, 's1', 's0', 'copy', 'running')"
            )
        )
    with refused(place, "SP261") as caught:
        place.manager.create_schema(SHOP, TABLES)
    assert caught[0].retryable
    with place.catalog.begin() as connection:
        connection.execute(text("UPDATE shardpool_catalog.move SET state = 'done'"))
    place.manager.create_schema(SHOP, TABLES)


@pytest.mark.parametrize(
    "behind",
    [
        "create table public.orders (a int)",
        "create view public.orders as select 1",
        "create type public.orders as (a int)",
        "create sequence public.customers",
        "create schema shop; create table shop.orders (a int)",
    ],
)
def test_nothing_behind_the_name(place: Place, behind: str) -> None:
    place.sql("s1", behind)
    with refused(place, "SP262") as caught:
        place.manager.create_schema(SHOP, TABLES)
    assert "'s1'" in str(caught[0])


def test_an_index_that_a_partition_lacks_is_not_dropped_behind_it(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.sql("s1", "drop index shop_p0003.orders_by_total; create table public.t (a int)")
    place.sql("s1", "create index orders_by_total on public.t (a)")
    with refused(place, "SP262"):
        place.manager.create_schema("drop index orders_by_total", {})


def test_the_script_itself_may_not_put_a_relation_behind(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    with refused(place, "SP262"):
        place.manager.create_schema("create index orders on country (name)", {})


def test_a_lost_partition_is_not_created_anew(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.sql("s1", "drop schema shop_p0003 cascade")
    with refused(place, "SP267") as caught:
        place.manager.create_schema("create table t (a int primary key)", {"t": Sharded("a")})
    assert "shop_p0003" in str(caught[0])


def test_a_key_with_a_nondeterministic_collation(place: Place) -> None:
    """The embedded servers are built without ICU: a collation is declared nondeterministic behind PostgreSQL's back."""
    for shard in SHARDS:
        place.sql(shard, 'create collation public.any_case from "C"')
        place.sql(shard, "update pg_collation set collisdeterministic = false where collname = 'any_case'")
    with refused(place, "SP234"):
        place.manager.create_schema("create table t (a text collate any_case primary key)", {"t": Sharded("a")})
    place.manager.create_schema("create table t (a text primary key, b text collate any_case)", {"t": Sharded("a")})
    column = place.catalog.load().tables["t"].column("b")
    assert column is not None
    assert column.collation == "public.any_case"


@pytest.mark.parametrize(
    ("code", "by_hand"),
    [
        ("SP231", "alter table {}.t drop constraint t_pkey; alter table {}.t alter a drop not null"),
        ("SP232", "alter table {}.t alter a type jsonb using null"),
        ("SP235", "create unique index u on {}.t (b)"),
        ("SP235", "create unique index u on {}.t (b) include (a)"),
        ("SP235", "create unique index u on {}.t ((a || a), b)"),
        ("SP235", "alter table {}.t add exclude (b with =)"),
        ("SP235", 'create unique index u on {}.t (a collate "POSIX", b)'),
        ("SP230", "alter table {}.t drop column a"),
    ],
)
def test_the_server_has_the_last_word_on_keys(place: Place, code: str, by_hand: str) -> None:
    place.manager.create_schema("create table t (a text primary key, b text)", {"t": Sharded("a")})
    for shard in SHARDS:
        for schema in PARTITIONS[shard]:
            place.sql(shard, by_hand.replace("{}", schema))
    with refused(place, code):
        place.manager.create_schema("alter table t add column c int", {})


def test_an_exclusion_by_another_operator_does_not_contain_the_key(place: Place) -> None:
    place.manager.create_schema("create table t (a text primary key, b text)", {"t": Sharded("a")})
    for shard in SHARDS:
        place.sql(
            shard,
            "create operator public.=== (leftarg=text, rightarg=text, procedure=texteq, commutator= ===, hashes);"
            "create operator class ops for type text using hash as operator 1 public.===, function 1 hashtext(text)",
        )
        for schema in PARTITIONS[shard]:
            place.sql(shard, f"alter table {schema}.t add exclude using hash (a public.ops with operator(public.===))")
    with refused(place, "SP235"):
        place.manager.create_schema("alter table t add column c int", {})


def test_not_null_may_not_go_with_its_constraint(place: Place) -> None:
    if int(place.sql("s0", "show server_version_num")[0][0]) < 180000:
        pytest.skip("before PostgreSQL 18, NOT NULL is no constraint with a name")
    ddl = "create table t (a bigint constraint there not null, b text)"
    place.manager.create_schema(ddl, {"t": Sharded("a")})
    with refused(place, "SP231"):
        place.manager.create_schema("alter table t drop constraint there", {})


def test_functions_may_name_tables_that_only_partitions_have(place: Place) -> None:
    ddl = "create function how_many() returns bigint language sql as 'select count(*) from orders'"
    place.manager.create_schema(SHOP, TABLES)
    place.manager.create_schema(ddl, {})
    assert place.catalog.load().user_functions == {"touch", "how_many"}
    rows = place.sql("s1", "set search_path to shop_p0002, shop, public; select how_many()")
    assert rows == [(0,)]


def test_bodies_that_the_server_can_check_are_checked(place: Place) -> None:
    with refused(place, "SP263") as caught:
        place.manager.create_schema("create function f() returns int language plpgsql as 'begin retrun 1; end'", {})
    assert "retrun" in str(caught[0])


def test_qualified_functions_and_types_are_the_keyspaces_own(place: Place) -> None:
    ddl = """
    create function shop.lower(text) returns text immutable language sql as $$ select 'mine' $$;
    create type shop.text as enum ('a');
    create table t (a int primary key, b shop.text, c pg_catalog.text check (shop.lower(c) = 'mine'));
    """
    place.manager.create_schema(ddl, {"t": Sharded("a")})
    place.sql("s0", "insert into shop_p0000.t values (1, 'a', 'NOT MINE')")
    place.manager.create_schema("drop function if exists nothing; drop table t; drop function shop.lower(text)", {})
    assert place.sql("s0", "select lower('A')") == [("a",)]


def test_a_reference_table_alone(place: Place) -> None:
    place.manager.create_schema(
        "create table unit (code text primary key); create unique index u on unit (upper(code))", {"unit": Reference()}
    )
    assert [place.tables_of(shard, "shop") for shard in SHARDS] == [{"unit"}, {"unit"}]
    assert not place.catalog.load().tables["unit"].sharded
    assert place.drift() == []


def test_an_empty_script(place: Place) -> None:
    before = place.catalog.load()
    assert place.manager.create_schema(" -- nothing\n;", {}) == []
    assert place.catalog.load() == before


def test_a_shard_that_is_not_there(place: Place) -> None:
    place.sql("s0", f"alter database {place.databases['s1']} allow_connections false")
    with pytest.raises(ShardUnavailable):
        place.manager.create_schema(SHOP, TABLES)
    place.sql("s0", f"alter database {place.databases['s1']} allow_connections true")
    assert place.log() == []
    assert place.tables_of("s0", "shop_p0000") == set()
