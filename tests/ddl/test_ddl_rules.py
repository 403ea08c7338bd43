"""The rules, on words alone: every refusal by its example, what is accepted, and what a rerun leaves alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from shardpool.ddl import REFUSALS, DdlStatement, parse_script, plan_statements
from shardpool.ddl.refusals import EXAMPLE_TABLES, refuse
from shardpool.errors import SchemaBusy, SchemaError
from shardpool.topology.tables import Reference, Sharded, Table, TableKind
from tests.ddl.ddl_tools import EXISTING, SHOP, TABLES

#: Codes that no script alone is refused with, and where they are tested.
ELSEWHERE = {
    "SP234": "test_ddl_apply.py",
    "SP245": "here",
    **dict.fromkeys(("SP260", "SP261", "SP262", "SP263", "SP267", "SP268", "SP273"), "test_ddl_apply.py"),
    **dict.fromkeys(("SP264", "SP265", "SP269"), "test_ddl_faults.py"),
    "SP266": "test_ddl_replay.py",
    "SP270": "test_ddl_views.py",
    "SP271": "test_key_triggers.py",
    "SP272": "moves/test_unique_columns.py",
}


def plan(
    ddl: str,
    tables: Mapping[str, TableKind] = EXAMPLE_TABLES,
    existing: Mapping[str, Table] = EXISTING,
    recorded: tuple[DdlStatement, ...] = (),
) -> tuple[DdlStatement, ...]:
    return plan_statements(parse_script(ddl, "shop"), tables, existing, "shop", recorded)


def refusal(ddl: str, tables: Mapping[str, TableKind] = EXAMPLE_TABLES) -> str:
    with pytest.raises(SchemaError) as caught:
        plan(ddl, tables)
    return caught.value.code


@pytest.mark.parametrize("code", [code for code, it in REFUSALS.items() if it.example])
def test_example_is_refused_with_its_code(code: str) -> None:
    found = REFUSALS[code]
    with pytest.raises(SchemaError) as caught:
        plan(found.example, found.tables)
    assert caught.value.code == code
    assert caught.value.hint
    assert "{" not in str(caught.value).replace('{"', "")


def test_every_code_has_an_example_or_a_test_elsewhere() -> None:
    assert {code for code, it in REFUSALS.items() if not it.example} == set(ELSEWHERE)
    assert all(code.startswith("SP2") and len(code) == 5 for code in REFUSALS)


def test_what_is_busy_is_retryable() -> None:
    assert isinstance(refuse("SP260", keyspace="shop"), SchemaBusy)
    assert refuse("SP260", keyspace="shop").retryable
    assert not refuse("SP252", line=1).retryable


ORDERS = "create table orders (customer_id bigint not null, id bigint, {}, primary key (customer_id, id))"
COUNTRY2 = {"currency": Reference()}

MORE_REFUSALS: list[tuple[str, str, Mapping[str, TableKind]]] = [
    # forms of tables
    ("SP221", "create table orders (customer_id bigint primary key) inherits (customers)", EXAMPLE_TABLES),
    ("SP221", "create table orders (like customers)", EXAMPLE_TABLES),
    ("SP221", "create table orders partition of customers for values in (1)", EXAMPLE_TABLES),
    ("SP221", "create table orders of some_type", EXAMPLE_TABLES),
    ("SP220", "create temp table orders (customer_id bigint primary key)", EXAMPLE_TABLES),
    ("SP205", "create table pg_temp.orders (customer_id bigint primary key)", EXAMPLE_TABLES),
    ("SP205", "create table shop_p0001.orders (customer_id bigint primary key)", EXAMPLE_TABLES),
    ("SP205", "create table db.shop.orders (customer_id bigint primary key)", EXAMPLE_TABLES),
    ("SP205", ORDERS.format("m shop_p0001.mood"), EXAMPLE_TABLES),
    ("SP205", "create type public.t as enum ('a')", EXAMPLE_TABLES),
    ("SP205", "drop table public.customers", {}),
    ("SP205", "drop function public.f(int)", {}),
    ("SP205", "comment on column public.customers.name is 'x'", {}),
    ("SP205", "drop type public.t", {}),
    ("SP222", ORDERS.format("unique (customer_id, id) using index tablespace fast"), EXAMPLE_TABLES),
    ("SP222", "create index i on customers (name) tablespace fast", {}),
    ("SP201", "alter table customers set tablespace fast", {}),
    ("SP201", "alter table customers set unlogged", {}),
    ("SP201", "create table orders as select 1 as customer_id", EXAMPLE_TABLES),
    ("SP203", "select 1 as customer_id into orders", EXAMPLE_TABLES),
    *[
        ("SP201", statement, {})
        for statement in (
            "create sequence s",
            "create rule r as on insert to customers do nothing",
            "create policy p on customers",
            "create schema x",
            "create extension citext",
            "create materialized view v as select 1",
            "create type t as range (subtype = int4)",
            "grant select on customers to public",
            "set search_path to public",
            "create statistics s on customer_id, name from customers",
            "do 'begin end'",
            "alter type t add attribute a int",
            "alter table customers enable row level security",
            "alter table customers inherit country",
            "alter table customers add unique using index i",
            "alter table customers disable trigger all",
            "alter table customers cluster on i",
            "alter view v set (security_barrier)",
            "drop materialized view v",
            "drop sequence s",
            "comment on schema shop is 'x'",
            "lock table customers",
            "vacuum",
        )
    ],
    *[("SP202", statement, {}) for statement in ("commit", "rollback", "savepoint a", "start transaction")],
    *[
        ("SP203", statement, {})
        for statement in (
            "update customers set name = 'x'",
            "delete from customers",
            "truncate customers",
            "copy customers from stdin",
            "merge into customers using country on true when matched then delete",
        )
    ],
    ("SP204", "drop index concurrently i", {}),
    # names
    ("SP207", "create table pg_orders (customer_id bigint primary key)", {"pg_orders": Sharded("customer_id")}),
    ("SP206", 'create table orders (customer_id bigint primary key, U&"d\\0061" int)', EXAMPLE_TABLES),
    ("SP206", "create table orders (customer_id bigint primary key) -- \0", EXAMPLE_TABLES),
    ("SP206", "create table orders (customer_id bigint primary key) -- \ud800", EXAMPLE_TABLES),
    ("SP206", f'create index "{"ä" * 32}" on customers (name)', {}),
    ("SP211", 'create table "Orders" (customer_id bigint primary key)', {**EXAMPLE_TABLES, "Orders": Reference()}),
    # declarations
    ("SP213", "comment on table customers is ''", {"orders": Sharded(("a", "a"))}),
    ("SP213", "comment on table customers is ''", {"orders": "customer_id"}),  # type: ignore[dict-item]
    ("SP212", "comment on table customers is ''", {"customers": Sharded("name")}),
    ("SP212", "comment on table country is ''", {"country": Sharded("code")}),
    # keys
    *[
        ("SP232", f"create table orders (customer_id {name} primary key)", EXAMPLE_TABLES)
        for name in (
            "decimal(10, 2)",
            "real",
            "float8",
            "double precision",
            "char(3)",
            "character",
            "bpchar",
            "citext",
            "public.citext",
            "mood",
            "shop.customer_number",
            "timestamp",
            "timestamptz",
            "boolean",
            "bigint[]",
            "jsonb",
            "inet",
            '"char"',
            "shop.text",
        )
    ],
    ("SP231", "create table orders (customer_id bigint unique)", EXAMPLE_TABLES),
    ("SP231", "create table orders (customer_id bigint null)", EXAMPLE_TABLES),
    ("SP230", ORDERS.format("a int"), {"orders": Sharded(("customer_id", "shop_id"))}),
    ("SP235", ORDERS.format("number int unique"), EXAMPLE_TABLES),
    ("SP235", ORDERS.format("a int, constraint u unique (id, a)"), EXAMPLE_TABLES),
    ("SP235", ORDERS.format("a int not null"), {"orders": Sharded(("customer_id", "a"))}),
    ("SP235", "create unique index i on customers (name)", {}),
    ("SP235", "create unique index i on customers ((customer_id + 1), name)", {}),
    ("SP235", 'create unique index i on customers (customer_id collate "de", name)', {}),
    ("SP235", "create unique index i on customers (customer_id my_ops)", {}),
    ("SP235", "create unique index i on customers (name) include (customer_id)", {}),
    ("SP235", "alter table customers add unique (name)", {}),
    ("SP235", "alter table customers add primary key (name)", {}),
    ("SP235", "alter table customers add column number int unique", {}),
    ("SP236", "alter table customers add exclude using gist (customer_id with <>)", {}),
    ("SP236", ORDERS.format("exclude using gist ((customer_id + 0) with =)"), EXAMPLE_TABLES),
    ("SP237", "alter table customers alter column customer_id type int", {}),
    ("SP237", "alter table customers alter customer_id drop not null", {}),
    ("SP237", "alter table customers rename customer_id to id", {}),
    ("SP254", "alter table customers set schema other", {}),
    ("SP254", "alter type t rename to u", {}),
    ("SP254", "alter type t rename attribute a to b", {}),
    # sequences and defaults
    ("SP223", ORDERS.format("a bigint generated always as identity"), EXAMPLE_TABLES),
    ("SP223", ORDERS.format("a bigint default 1 + nextval('s')"), EXAMPLE_TABLES),
    ("SP223", "alter table customers add column a bigserial", {}),
    ("SP223", "alter table customers alter name add generated always as identity", {}),
    ("SP223", "alter table customers alter name set default pg_catalog.nextval('s')", {}),
    ("SP223", "create table currency (code serial primary key)", COUNTRY2),
    ("SP223", "create domain d as bigint default nextval('s')", {}),
    ("SP224", "create domain d as uuid default gen_random_uuid()", {}),
    *[
        ("SP224", f"create table currency (code text primary key, a text default {default})", COUNTRY2)
        for default in ("random()", "clock_timestamp()", "f()", "shop.now()", "current_user", "upper(f())")
    ],
    ("SP224", "alter table country add column a timestamptz default now()", {}),
    ("SP224", "alter table country add column a timestamptz default current_timestamp", {}),
    ("SP224", "alter table country alter code set default gen_random_uuid()", {}),
    # foreign keys
    ("SP240", "alter table country add column c bigint references customers", {}),
    ("SP241", ORDERS.format("foreign key (id) references customers"), EXAMPLE_TABLES),
    ("SP241", ORDERS.format("foreign key (id, customer_id) references orders"), EXAMPLE_TABLES),
    ("SP241", "alter table customers add foreign key (name) references customers (name)", {}),
    ("SP243", "alter table customers add column a int references shop.nowhere", {}),
    ("SP238", ORDERS.format("foreign key (customer_id) references customers on update set null"), EXAMPLE_TABLES),
    (
        "SP238",
        "create table orders (customer_id text primary key references country on update cascade)",
        EXAMPLE_TABLES,
    ),
    (
        "SP238",
        "create table orders (customer_id text primary key references country on delete set null)",
        EXAMPLE_TABLES,
    ),
    # others
    ("SP250", "alter table nowhere add column a int", {}),
    ("SP250", "create index i on nowhere (a)", {}),
    ("SP250", "create trigger t before insert on nowhere for each row execute function f()", {}),
    ("SP250", "drop table nowhere", {}),
    ("SP250", "drop type nowhere", {}),
    ("SP250", "drop function nowhere", {}),
    ("SP250", "drop trigger t on customers", {}),
    ("SP250", "alter type nowhere add value 'a'", {}),
    ("SP250", "alter index nowhere rename to there", {}),
    ("SP250", "comment on function f(int) is 'x'", {}),
    ("SP250", "create function f(int) returns int language sql as 'select 1'; drop function f(text)", {}),
    ("SP251", "create table customers (customer_id bigint primary key)", {}),
    ("SP251", "create index i on customers (name); create index i on country (code)", {}),
    ("SP251", "create type t as enum ('a'); create type t as enum ('b')", {}),
    (
        "SP251",
        "create function f() returns int language sql as 'select 1';"
        "create function f() returns int language sql as 'select 2'",
        {},
    ),
    ("SP252", "alter table customers drop column name cascade", {}),
    ("SP252", "alter table customers drop constraint c cascade", {}),
    ("SP252", "create type t as enum ('a'); drop type t cascade", {}),
    ("SP253", "drop table if exists customers, nowhere", {}),
    ("SP225", "create type orders as enum ('a')", EXAMPLE_TABLES),
    ("SP225", "create type t as enum ('a'); create table t (a int primary key)", {"t": Sharded("a")}),
    ("SP256", "create function f() returns int language sql begin atomic select 1 from customers; end", {}),
    ("SP256", "create function f() returns int language sql as 'select 1 from shop_p0001.x'", {}),
    ("SP200", "create function f() returns int language sql as 'selec 1'", {}),
    ("SP257", "create view v with (security_barrier) as select * from customers", {}),
    ("SP257", "create view v as select * from customers with check option", {}),
    ("SP257", "create view v as select * from country; create or replace view v as select name from customers", {}),
    ("SP257", "create view v as select * from customers where name < 'today'", {}),
    ("SP257", "create view v as select timestamp 'Now' as t", {}),
    ("SP258", "create view orders as select * from country; " + ORDERS.format("n int"), EXAMPLE_TABLES),
    ("SP258", "create type t as enum ('a'); create view t as select 1 as a", {}),
    ("SP258", "create view t as select 1 as a; create type t as enum ('a')", {}),
    ("SP250", "create view v as select * from nowhere", {}),
    ("SP250", "create view v as select * from pg_class", {}),
    ("SP250", "create view v as with w as (select * from w) select * from w", {}),
    ("SP250", "drop view customers", {}),
    ("SP250", "create view v as select 1 as a; drop table v", {}),
    ("SP250", "create view v as select 1 as a; drop view v; drop view v", {}),
    ("SP250", "create view v as select * from customers; create index i on v (name)", {}),
    ("SP251", "create view v as select 1 as a; create view v as select 2 as a", {}),
    ("SP252", "create view v as select 1 as a; drop view v cascade", {}),
    ("SP253", "create view v as select 1 as a; create view w as select * from customers; drop view v, w", {}),
    ("SP205", "create view v as select * from information_schema.tables", {}),
    ("SP205", "create view public.v as select * from customers", {}),
    ("SP207", "create view shardpool_v as select * from customers", {}),
    ("SP254", "create view v as select 1 as a; alter view v rename to w", {}),
    ("SP254", "create view v as select 1 as a; alter view v rename column a to b", {}),
]


@pytest.mark.parametrize(
    ("code", "ddl", "tables"), MORE_REFUSALS, ids=lambda it: it[:60] if isinstance(it, str) else ""
)
def test_refused(code: str, ddl: str, tables: Mapping[str, TableKind]) -> None:
    assert refusal(ddl, tables) == code


ACCEPTED: list[tuple[str, Mapping[str, TableKind]]] = [
    *[
        (f"create table orders (customer_id {name} primary key)", EXAMPLE_TABLES)
        for name in (
            "smallint",
            "int2",
            "int",
            "integer",
            "int4",
            "bigint",
            "int8",
            "text",
            'pg_catalog."text"',
            "varchar",
            "varchar(20)",
            "character varying (20)",
            "uuid",
            "bytea",
            "date",
        )
    ],
    ("create table orders (customer_id bigint, not null customer_id)", EXAMPLE_TABLES),
    ("create table orders (customer_id bigint not null)", EXAMPLE_TABLES),
    (
        "create table orders (a int, b text, unique (b, a, c), c int, primary key (b, a))",
        {"orders": Sharded(("a", "b"))},
    ),
    (ORDERS.format("u uuid default gen_random_uuid(), t timestamptz default clock_timestamp()"), EXAMPLE_TABLES),
    (ORDERS.format("d tsrange, exclude using gist (customer_id with =, d with &&)"), EXAMPLE_TABLES),
    (ORDERS.format("d int generated always as (id * 2) stored"), EXAMPLE_TABLES),
    (ORDERS.format("c text references country on update cascade on delete set null"), EXAMPLE_TABLES),
    (
        ORDERS.format("foreign key (customer_id) references customers on update cascade on delete cascade"),
        EXAMPLE_TABLES,
    ),
    (
        ORDERS.format("p bigint, foreign key (customer_id, p) references orders on delete set null (p)"),
        EXAMPLE_TABLES,
    ),
    (
        "create table currency (code text primary key, at timestamptz default now(), c text references country)",
        COUNTRY2,
    ),
    (
        "create table currency (code text primary key, n text unique default upper('x'), d date default current_date)",
        COUNTRY2,
    ),
    ("create unique index i on customers (name, customer_id) where name is not null", {}),
    ("create unique index i on country (code)", {}),
    ("alter table customers add column a int default 1, add check (a > 0), alter name set not null", {}),
    ("alter table customers rename name to label; create index i on customers (label)", {}),
    ("alter table if exists nowhere add column a int", {}),
    ("drop table if exists nowhere", {}),
    ("create index i on customers (name); alter index i rename to j; drop index j", {}),
    ("create type mood as enum ('a'); alter type mood add value 'b'; drop type mood", {}),
    ("create type pair as (a int, b text); create domain d as text check (value <> '')", {}),
    ("create or replace procedure p(a int, out b text) language plpgsql as 'begin end'; drop procedure p", {}),
    ("create function f(int) returns int language sql return $1 + 1", {}),
    ("create function f() returns int language sql as 'select 1 from customers, shop.country, public.x'", {}),
    ("create function f() returns int language plpython3u as 'return \"'", {}),
]


@pytest.mark.parametrize(("ddl", "tables"), ACCEPTED, ids=lambda it: it[:60] if isinstance(it, str) else "")
def test_accepted(ddl: str, tables: Mapping[str, TableKind]) -> None:
    assert plan(ddl, tables)


def test_messages_name_the_statement_and_its_line() -> None:
    with pytest.raises(SchemaError, match="line 4: CREATE MATERIALIZED VIEW is"):
        plan("-- first\n;\n/* a\n*/ create materialized /* b */ view v as select 1", {})


# -- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddl", "expected"),
    [
        ("create index i on shop.customers (name)", "create index i on customers (name)"),
        ('create index i on "shop" . customers (name) -- here', "create index i on customers (name) -- here"),
        ("comment on column shop.customers.name is 'shop.x'", "comment on column customers.name is 'shop.x'"),
        ("alter table SHOP.customers add column s shop.mood", "alter table customers add column s shop.mood"),
        ("create index i on shop.customers (shop.f(name))", "create index i on customers (shop.f(name))"),
        ("create index if not exists i on shop.customers (name)", "create index i on customers (name)"),
        (
            "alter table shop.customers add check (shop.customers.name <> 'é')",
            "alter table customers add check (customers.name <> 'é')",
        ),
    ],
)
def test_the_keyspace_is_cut_out_of_the_users_words(ddl: str, expected: str) -> None:
    assert [it.text for it in plan(ddl, {})] == [expected]


def test_a_table_named_like_the_keyspace_keeps_its_columns() -> None:
    ddl = "create table shop.shop (a int primary key, check (shop.a > shop.f(1)))"
    (planned,) = plan(ddl, {"shop": Sharded("a")})
    assert planned.text == "create table shop (a int primary key, check (shop.a > shop.f(1)))"


def test_foreign_keys_become_statements_for_after_the_copy() -> None:
    planned = plan(
        "create table if not exists shop.orders (customer_id bigint not null references shop.customers deferrable"
        " initially deferred, id bigint, c text constraint its_country references country not null,"
        " primary key (customer_id, id), p bigint,"
        " foreign key (customer_id, p) references orders on delete set null (p) not valid)"
    )
    assert [(it.text, it.after_copy, it.part) for it in planned] == [
        (
            "CREATE TABLE orders (customer_id bigint NOT NULL, id bigint, c text NOT NULL,"
            " PRIMARY KEY (customer_id, id), p bigint)",
            False,
            0,
        ),
        (
            "ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers DEFERRABLE INITIALLY DEFERRED",
            True,
            1,
        ),
        ("ALTER TABLE orders ADD CONSTRAINT its_country FOREIGN KEY (c) REFERENCES country", True, 2),
        ("ALTER TABLE orders ADD FOREIGN KEY (customer_id, p) REFERENCES orders ON DELETE SET NULL (p)", True, 3),
    ]
    names = [it.name for planned_ in planned for it in planned_.effects]
    assert names == ["orders", "orders_customer_id_fkey", "its_country", "orders_customer_id_p_fkey"]


def test_alter_table_is_taken_apart_by_when_a_copy_needs_it() -> None:
    planned = plan(
        "alter table customers add constraint fk foreign key (name) references country;"
        "alter table customers add column c text references country not enforced, drop constraint fk,"
        " add check (c > ''), disable trigger t",
        {},
    )
    assert [(it.text, it.after_copy) for it in planned] == [
        ("alter table customers add constraint fk foreign key (name) references country", True),
        ("ALTER TABLE customers DROP CONSTRAINT fk", True),
        ("ALTER TABLE customers ADD COLUMN c text, ADD CHECK (c > '')", False),
        (
            "ALTER TABLE customers ADD FOREIGN KEY (c) REFERENCES country NOT ENFORCED NOT VALID, DISABLE TRIGGER t",
            True,
        ),
    ]


KEY = "alter table customers add foreign key (name) references country; "
TRIGGER = "create trigger t before insert on customers for each row execute function f(); "


@pytest.mark.parametrize(
    ("ddl", "after"),
    [
        ("create index i on customers (name)", True),
        ("create trigger t before insert on customers for each row execute function f()", True),
        ("alter table customers add foreign key (name) references country", True),
        ("alter table customers add column a int", False),
        ("alter table customers add check (name > '')", False),
        ("alter table customers enable trigger t", True),
        ("create index i on customers (name); drop index i", True),
        ("create index i on customers (name); comment on index i is 'x'", True),
        ("create index i on customers (name); alter index i set (fillfactor = 50)", True),
        (TRIGGER + "drop trigger t on customers", True),
        (KEY + "comment on constraint customers_name_fkey on customers is 'x'", True),
        (KEY + "alter table customers validate constraint customers_name_fkey", True),
        (KEY + "alter table customers rename constraint customers_name_fkey to x", True),
        ("alter table customers rename constraint a to b", False),
        ("drop table customers", False),
        ("comment on table customers is 'x'", False),
    ],
)  # fmt: skip
def test_when_a_copy_needs_it(ddl: str, after: bool) -> None:
    planned = plan(ddl, {})
    assert (planned[-1].scope, planned[-1].after_copy) == ("partition", after)


def test_an_index_without_a_name_gets_the_one_that_postgresql_would_choose() -> None:
    texts = [
        it.text for it in plan("create index on customers (name); create index on customers (name) where name > ''", {})
    ]
    assert texts == [
        'create index "customers_name_idx" on customers (name)',
        "create index \"customers_name_idx1\" on customers (name) where name > ''",
    ]


def test_what_cannot_be_taken_apart_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postgast.deparse", lambda tree: "select 1")
    assert refusal("create table orders (customer_id bigint primary key references customers)") == "SP245"
    assert refusal("alter table customers add column c text references country", {}) == "SP245"


# -- reruns ---------------------------------------------------------------------------------------------------------


def rerun(first: str, second: str) -> list[str]:
    """The texts of *second* that would run after *first*."""
    recorded = plan(first, {})
    return [it.text for it in plan(second, {}, recorded=recorded) if not it.unchanged]


def test_the_same_script_again_changes_nothing() -> None:
    recorded = plan(SHOP, TABLES, {})
    tables = {**EXISTING, "orders": replace(EXISTING["customers"], name="orders")}
    again = plan(SHOP.replace(";\n", " /* again */ ;\n\n").replace("create ", "CREATE  "), {}, tables, recorded)
    assert all(it.unchanged for it in again)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("create index i on customers (name)", "CREATE INDEX IF NOT EXISTS i ON shop.customers (name)", []),
        ("create index on customers (name)", "create index on customers (name)", []),
        (
            "create index i on customers (name); drop index i",
            "create index i on customers (name)",
            ["create index i on customers (name)"],
        ),
        (
            "create index on customers (name); drop index customers_name_idx",
            "create index on customers (name)",
            ['create index "customers_name_idx" on customers (name)'],
        ),
        ("create index i on customers (name); alter index i rename to j", "create index i on customers (name)", []),
        (
            "create index i on customers (name); alter index i rename to j",
            "create index i on customers (name); alter index i rename to j",
            [],
        ),
        (
            "create index i on customers (name); alter index i rename to j",
            "create index i on customers (customer_id)",
            ["create index i on customers (customer_id)"],
        ),
        ("alter table customers add column a int", "alter table customers add column a int", []),
        (
            "alter table customers add column a int",
            "alter table customers add column a int; alter table customers add column b int",
            ["alter table customers add column b int"],
        ),
        (
            "alter table customers add column a int; alter table customers add column b int",
            "alter table customers add column b int; alter table customers add column c int",
            ["alter table customers add column c int"],
        ),
        (
            "alter table customers alter name set default 'a'; alter table customers alter name set default 'b'",
            "alter table customers alter name set default 'a'",
            ["alter table customers alter name set default 'a'"],
        ),
        (
            "create function f() returns int language sql as 'select 1'",
            "create or replace function f() returns int language sql as 'select 1'",
            [],
        ),
        (
            "create function f() returns int language sql as 'select 1'",
            "create or replace function f() returns int language sql as 'select 2'",
            ["create or replace function f() returns int language sql as 'select 2'"],
        ),
        (
            "create function f() returns int language sql as 'select 1'",
            "create function f(int) returns int language sql as 'select 1'",
            ["create function f(int) returns int language sql as 'select 1'"],
        ),
        (
            "create type t as enum ('a'); alter type t add value 'b'",
            "create type t as enum ('a'); alter type t add value 'b'; alter type t add value 'c'",
            ["alter type t add value 'c'"],
        ),
        (
            "create index i on customers (name) where name in ('a', 'b') and name = any (array['a', 'b'])",
            "create index i on customers (name) where name in  ( 'a','b' ) and name = any (array [ 'a','b' ])",
            [],
        ),
        ("comment on table customers is 'a'", "comment on table customers is 'a'", []),
        ("drop table customers", "drop table if exists customers", []),
    ],
)  # fmt: skip
def test_what_a_rerun_still_runs(first: str, second: str, expected: list[str]) -> None:
    if "drop table" in first:
        recorded = plan(first, {})
        left = {"country": EXISTING["country"]}
        assert [it.text for it in plan(second, {}, left, recorded) if not it.unchanged] == expected
    else:
        assert rerun(first, second) == expected


def test_what_belonged_to_a_dropped_table_is_gone_too() -> None:
    script = (
        "create table t (a int primary key); create index i on t (a); alter table t add foreign key (a) references t;"
        "create trigger x before insert on t for each row execute function f(); comment on table t is 'x'; "
    )
    recorded = plan(script + "drop table t", {"t": Sharded("a")}, {})
    assert not any(it.unchanged for it in plan(script, {"t": Sharded("a")}, {}, recorded))


def test_changes_of_a_table_that_is_created_anew_are_made_again() -> None:
    twice = "comment on table t is 'x'; comment on table t is 'x'; "
    create = "create table t (a int primary key); "
    recorded = plan(create + twice, {"t": Sharded("a")}, {})
    existing = {"t": Table("t", (), (), ("a",), ())}
    script = "comment on table t is 'x'; drop table t; " + create + "comment on table t is 'x'"
    again = plan(script, {"t": Sharded("a")}, existing, recorded)
    assert [it.unchanged for it in again] == [True, False, False, False]


def test_the_literal_decides_whether_a_definition_is_the_same() -> None:
    recorded = plan("create table orders (customer_id bigint primary key, a int default 1)")
    existing = {**EXISTING, "orders": replace(EXISTING["customers"], name="orders")}
    with pytest.raises(SchemaError) as caught:
        plan("create table orders (customer_id bigint primary key, a int default 2)", {}, existing, recorded)
    assert caught.value.code == "SP251"


def test_a_foreign_key_more_or_less_is_another_definition() -> None:
    recorded = plan("create table orders (customer_id bigint primary key references customers)")
    existing = {**EXISTING, "orders": replace(EXISTING["customers"], name="orders")}
    with pytest.raises(SchemaError) as caught:
        plan("create table orders (customer_id bigint primary key)", {}, existing, recorded)
    assert caught.value.code == "SP251"


def test_a_table_of_a_query_is_called_so() -> None:
    with pytest.raises(SchemaError, match=r"CREATE TABLE \.\. AS is not supported"):
        plan("create table orders as select 1 as customer_id", EXAMPLE_TABLES)
