"""Building a partition, or a shard, again from the recorded statements."""

from __future__ import annotations

import pytest

from shardpool.ddl.compaction import compact
from shardpool.ddl.features import Feature, read_features
from shardpool.ddl.log import Recorded
from shardpool.ddl.rules import plan_statements
from shardpool.ddl.script import parse_script
from shardpool.errors import SchemaError
from shardpool.topology.shard_map import new_partition
from shardpool.topology.tables import Reference, Sharded
from tests.ddl.ddl_tools import SHOP, TABLES, Place

T = {"t": Sharded("a")}
TABLE = "create table t (a int, b text, c text, primary key (a)); "


def features(place: Place, shard: str, schema: str) -> set[tuple[str, str, str, str]]:
    with place.connect(shard) as connection:
        cursor = connection.cursor()
        cursor.execute(f"set search_path to {schema}, shop, public")
        return set(map(tuple, read_features(cursor, schema)))


def rebuild(place: Place) -> tuple[set[Feature], set[Feature]]:
    """Prepare the spare database as a shard, and build a partition there: what it has before and after its rows."""
    place.manager.prepare_shard("s2")
    with place.connect("s2") as connection:
        cursor = connection.cursor()
        cursor.execute("create schema shop_p0000")
        place.manager.replay_partition(connection, "shop_p0000", after_copy=False)
        first = set(read_features(cursor, "shop_p0000"))
        place.manager.replay_partition(connection, "shop_p0000", after_copy=True)
        second = set(read_features(cursor, "shop_p0000"))
        connection.commit()
    assert second == features(place, "s0", "shop_p0000")
    return first, second


def kinds(found: set[Feature]) -> set[tuple[str, str]]:
    return {(it.kind, it.name) for it in found if it.kind not in ("table", "column")}


def test_a_partition_is_built_in_two_phases(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    first, second = rebuild(place)
    before = {("primary key", "customers_pkey"), ("primary key", "orders_pkey"), ("constraint", "orders_total_check")}
    assert kinds(first) == before
    assert kinds(second) - before == {
        ("foreign key", "customers_country_fkey"),
        ("foreign key", "orders_customer_id_fkey"),
        ("foreign key", "parent_fk"),
        ("index", "orders_by_total"),
        ("index", "orders_parent_idx"),
        ("trigger", "touch"),
    }
    assert features(place, "s2", "shop") == features(place, "s0", "shop")


def test_a_replayed_partition_is_the_callers_to_commit(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.manager.prepare_shard("s2")
    with place.connect("s2") as connection:
        connection.cursor().execute("create schema shop_p0000")
        place.manager.replay_partition(connection, "shop_p0000", after_copy=False)
        connection.rollback()
    assert place.tables_of("s2", "shop_p0000") == set()


@pytest.mark.parametrize(
    ("script", "changes", "before_rows"),
    [
        # An index on a column that has another name now must be there before the column is renamed.
        (TABLE + "create index i on t (b)", "alter table t rename b to d", {("index", "i")}),
        (TABLE + "create index i on t (b); create index j on t (c)", "alter table t drop column b", set()),
        (TABLE + "create index i on t (b)", "alter table t alter b type varchar(10); alter table t add d int", set()),
        (TABLE + "create index i on t (b)", "alter index i rename to j; alter index j set (fillfactor = 50)", set()),
        (TABLE + "create index i on t (b)", "comment on index i is 'x'; drop index i", set()),
        (TABLE + "create unique index i on t (a)", "alter table t replica identity using index i", {("index", "i")}),
        (TABLE, "drop table t; create table t (a int primary key, c text); create index i on t (c)", set()),
        (TABLE + "create index i on t (b)", "drop table t; create table t (a int primary key, b int)", set()),
        (
            TABLE + "alter table t add constraint fk foreign key (c) references unit",
            "alter table t drop constraint fk, drop column c",
            set(),
        ),
        (
            TABLE + "alter table t add constraint fk foreign key (c) references unit",
            "comment on constraint fk on t is 'x'; alter table t rename constraint fk to key; "
            "alter table t alter constraint key deferrable; alter table t drop constraint key; "
            "alter table t rename c to d; alter table t add constraint fk foreign key (d) references unit",
            set(),
        ),
        (
            TABLE + "create trigger x before insert on t for each row execute function f()",
            "alter trigger x on t rename to y; comment on trigger y on t is 'x'; alter table t disable trigger y",
            set(),
        ),
        (
            TABLE + "create trigger x before update of b on t for each row execute function f()",
            "drop trigger x on t; drop function f; alter table t rename b to d",
            set(),
        ),
        (TABLE, "alter table t add column m mood; drop table t; drop type mood", set()),
        (TABLE, "alter type mood add value 'c'; alter table t add column m mood", set()),
    ],
)  # fmt: skip
def test_changes_are_repeated(place: Place, script: str, changes: str, before_rows: set[tuple[str, str]]) -> None:
    shared = (
        "create table unit (code text primary key); create type mood as enum ('a', 'b'); "
        "create function f() returns trigger language plpgsql as 'begin return new; end'; "
    )
    place.manager.create_schema(shared + script, {**T, "unit": Reference()})
    rows = [("s0", "insert into shop_p0000.t (a) values (1)")]
    for shard, row in rows:
        place.sql(shard, row)
    place.manager.create_schema(changes, T if "create table" in changes else {})
    first, _ = rebuild(place)
    assert kinds(first) - {("primary key", "t_pkey")} == before_rows
    assert place.drift() == []


@pytest.mark.parametrize(
    ("script", "changes", "reason"),
    [
        (TABLE + "alter table t add column m mood; alter table t alter m type text", "drop type mood", "mood"),
        (TABLE + "alter table t add foreign key (c) references unit", "alter table t rename c to d", "t_c_fkey"),
        (
            TABLE + "create trigger x before update of b on t for each row execute function f()",
            "alter table t rename b to d",
            "trigger 'x'",
        ),
        (TABLE + "alter table t add foreign key (c) references unit", "alter table unit rename code to id", None),
    ],
)
def test_what_could_not_be_repeated_is_refused(place: Place, script: str, changes: str, reason: str | None) -> None:
    shared = (
        "create table unit (code text primary key); create type mood as enum ('a', 'b'); "
        "create function f() returns trigger language plpgsql as 'begin return new; end'; "
    )
    place.manager.create_schema(shared + script, {**T, "unit": Reference()})
    log = place.log()
    if reason is None:
        # The foreign key names no column: it follows.
        place.manager.create_schema(changes, {})
        return
    with pytest.raises(SchemaError) as caught:
        place.manager.create_schema(changes, {})
    assert caught.value.code == "SP266"
    assert reason in str(caught.value)
    assert place.log() == log


def test_an_index_that_went_with_its_column_may_come_back_as_another(place: Place) -> None:
    place.manager.create_schema(TABLE + "create index i on t (b)", T)
    place.manager.create_schema("alter table t drop column b", {})
    reports = place.manager.create_schema("create index i on t (c); alter table t add column b int", {})
    assert [it.state for it in reports] == ["applied", "applied"]
    assert place.manager.create_schema("create index i on t (c)", {})[0].state == "unchanged"
    first, second = rebuild(place)
    assert ("index", "i") in kinds(second) - kinds(first)


def test_a_table_that_came_with_such_a_loss_and_went(place: Place) -> None:
    place.manager.create_schema(TABLE + "create index i on t (b)", T)
    place.manager.create_schema("alter table t drop column b; create table u (a int primary key)", {"u": Sharded("a")})
    place.manager.create_schema("drop table u", {})
    rebuild(place)


def test_hand_made_objects_do_not_block_changes(place: Place) -> None:
    place.manager.create_schema(TABLE, T)
    place.sql("s0", "create index by_hand on shop_p0000.t (b)")
    place.manager.create_schema("alter table t add column d int", {})


# -- new shards -----------------------------------------------------------------------------------------------------


def test_a_new_shard_has_the_shared_objects(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.manager.create_schema("alter type mood add value 'new'", {})
    # The value is usable only after a commit: before PostgreSQL 17 also where the type is new.
    place.manager.create_schema("create table m (m mood primary key default 'new')", {"m": Reference()})
    place.manager.prepare_shard("s2")
    assert place.tables_of("s2", "shop") == {"country", "m"}
    assert features(place, "s2", "shop") == features(place, "s0", "shop")
    marks = "select count(*) from shop.shardpool_ddl"
    assert place.sql("s2", marks) == place.sql("s0", marks)
    place.manager.prepare_shard("s2")
    assert place.sql("s2", marks) == place.sql("s0", marks)


def test_a_new_shard_joins_and_takes_part(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.manager.prepare_shard("s2")
    place.catalog.add_shard("s2", place.url("s2"), place.identity("s2"))
    place.manager.create_schema("create table unit (code text primary key)", {"unit": Reference()})
    assert place.tables_of("s2", "shop") == {"country", "unit"}
    assert place.drift() == []


def test_a_new_shard_may_be_given_partitions(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.manager.prepare_shard("s2", [new_partition("shop", 7, 0, 1)])
    assert features(place, "s2", "shop_p0007") == features(place, "s0", "shop_p0000")
    place.sql("s2", "drop table shop_p0007.orders")
    place.manager.prepare_shard("s2", [new_partition("shop", 7, 0, 1)])
    assert place.tables_of("s2", "shop_p0007") == {"customers"}


def test_a_shard_with_something_behind_the_name_is_not_prepared(place: Place) -> None:
    place.manager.create_schema(SHOP, TABLES)
    place.sql("s2", "create table public.orders (a int)")
    with pytest.raises(SchemaError, match="SP262"):
        place.manager.prepare_shard("s2")
    assert place.sql("s2", "select from pg_namespace where nspname = 'shop'") == []


# -- compaction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "left"),
    [
        (TABLE + "drop table t", []),
        (TABLE + "create index i on t (b); drop index i", ["create table"]),
        (TABLE + "create index i on t (b); alter index i rename to j; drop index j", ["create table"]),
        (
            TABLE + "create trigger x before insert on t execute function suppress_redundant_updates_trigger(); "
            "create or replace trigger x before delete on t execute function suppress_redundant_updates_trigger(); "
            "drop trigger x on t",
            ["create table"],
        ),
        (
            TABLE + "create index i on t (b); create index j on t (b); drop index i, j",
            ["create table", "create index i", "create index j", "drop index i, j"],
        ),
        (TABLE + "drop table t; " + TABLE + "create index i on t (b)", ["create table", "create index i"]),
        (
            TABLE + "create table u (a int primary key); drop table t, u; " + TABLE.replace(" t ", " u "),
            ["create table u"],
        ),
        (TABLE + "create table u (a int primary key); drop table t", ["create table u"]),
        (
            TABLE + "alter table t add foreign key (a) references t, add check (a > 0); "
            "alter table t drop constraint t_a_fkey",
            ["create table", "ALTER TABLE t ADD CHECK"],
        ),
        (
            TABLE + "alter table t add constraint x foreign key (a) references t, add constraint y foreign key (a) "
            "references t; alter table t drop constraint x",
            ["create table", "alter table t add", "alter table t drop"],
        ),
        (
            "create function f() returns int language sql as 'select 1'; drop function f",
            ["create function", "drop function"],
        ),
    ],
)
def test_compaction(script: str, left: list[str]) -> None:
    tables = {**T, "u": Sharded("a")} if " u " in script else T
    planned = plan_statements(parse_script(script, "shop"), tables if "table t (" in script else {}, {}, "shop")
    log = [Recorded(number, it) for number, it in enumerate(planned)]
    found = [it.statement.text for it in compact(log)]
    assert len(found) == len(left)
    assert all(text.startswith(start) for text, start in zip(found, left, strict=True)), found
