"""The keyspace that statements are checked against: its DDL and its rows, the same on every run.

It holds what planners get wrong: NULLs everywhere, a key with most of the rows, tables that are empty or stand in one
partition only, keys of every type, equal values that print differently (1.0 and 1.00), names that must be quoted,
user types, and columns of the same name in tables with and without that key.
"""

from __future__ import annotations

import datetime
import random
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from shardpool.topology.tables import Reference, Sharded, TableKind

DDL = """
create type mood as enum ('sad', 'ok', 'happy');
create type point2 as (x integer, y integer);
create domain positive as integer check (value > 0);

create function twice(x integer) returns integer language sql immutable as 'select x * 2';
create function number_of_orders() returns bigint language plpgsql stable as
    'begin return (select count(*) from orders); end';
create function total_of(customer bigint) returns numeric language plpgsql stable as
    'begin return (select sum(o.total) from orders o where o.customer_id = customer); end';
create function name_of(c text) returns text language sql stable as 'select name from country where code = c';
create function lower(m mood) returns text language sql immutable as 'select pg_catalog.upper(m::text)';

create table country (
    code text primary key, name text not null, region text collate "C", population bigint, customer_id bigint
);
create table currency (id integer primary key, iso char(3) not null, rate numeric, country text);
create table void (id integer primary key, customer_id bigint, note text);

create table customers (
    customer_id bigint primary key, name text, "Full Name" text collate "C", code text references country (code),
    mood mood, email varchar(40), vip boolean, credit numeric(12,2), born date, created timestamptz, tags text[],
    profile jsonb, level smallint, age positive, spot point2
);
create table orders (
    id bigint, customer_id bigint not null references customers, total numeric(10,2), weight double precision,
    ratio real, quantity integer, small smallint, placed date, placed_at timestamptz, status mood, note text,
    cnote text collate "C", active boolean, amount numeric, code text references country (code), span int4range,
    attrs jsonb, nums integer[], doc uuid, big bigint, cents integer generated always as (quantity * 100) stored,
    wait interval, padded char(6), moods mood[],
    primary key (customer_id, id)
);
create table items (
    customer_id bigint not null, order_id bigint, line integer, product text, qty integer, price numeric(8,3),
    gift boolean, total numeric(10,2),
    primary key (customer_id, order_id, line), foreign key (customer_id, order_id) references orders (customer_id, id)
);
create table "Order Line" (
    "Customer Id" bigint not null, "select" integer, "Größe" text, "a""b" text, "100%" numeric, "x:y" text,
    "CamelCase" boolean
);
create table short (customer_id integer not null, id integer, v text);
create table tiny (customer_id smallint not null, v integer);
create table nothing (customer_id bigint not null, id bigint, v integer, note text);
create table lone (customer_id bigint not null, v integer);
create table visits (visit_id uuid primary key, customer_id bigint, page text, seen timestamp, login text);
create table people (login text primary key, boss text, age integer, customer_id bigint, day date);
create table logins (login varchar(30) not null, n integer, at time);
create table cpeople (login text collate "C" primary key, n integer);
create table ledger (
    region text, account integer, entry integer, value numeric(14,4), customer_id bigint,
    primary key (region, account, entry)
);
create table balances (region text, account bigint, closed boolean, primary key (region, account));
create table daily (day date not null, customer_id bigint, hits integer, part double precision);
create table blobs (k bytea primary key, v integer);

create type pair as (m mood, n integer);
create type nested as (i pair, ms mood[], note text);
create domain email as text check (value like '%@%');
create domain good_mood as mood check (value <> 'sad');
create domain ints as integer[] check (array_length(value, 1) < 10);
create domain whole as nested;
create table zoo (
    k bigint not null, id integer, e email, gm good_mood, ds ints, o nested, os nested[], pairs pair[], fr numrange,
    mr int4range, mm int4multirange, mmr datemultirange, tz timetz, b bit(4), vb bit varying, ip inet, c cidr,
    mac macaddr, j json, p point, ch "char", nm name, mon money, tsv tsvector, tsq tsquery, lsn pg_lsn, pth jsonpath,
    n0 numeric(6,-2), n1 numeric(3,5), iv interval(0), ts0 timestamp(0), c1 char, vc varchar(3)[], od whole,
    ods whole[], gms good_mood[], box box, v text generated always as (upper(nm::text)) stored, x int4multirange,
    number oid, bp bpchar
);
create table cubs (k bigint not null, id integer, m mood, o nested);
create table keepers (id integer primary key, m mood, o nested, os nested[]);

create view all_customers as select * from customers;
create view all_orders as select * from orders;
create view all_items as select * from items;
create view all_country as select * from country;
create view large as select * from orders where total > 50;
create view lines (customer, number, line, product, value) as
    select o.customer_id, o.id, i.line, i.product, i.qty * i.price
    from orders o join items i on i.customer_id = o.customer_id and i.order_id = o.id;
create view by_code as select code, count(*) as n, sum(total) as total, avg(quantity) as mean from orders group by code;
create view by_customer as
    select customer_id, count(*) as n, max(total) as top from orders group by customer_id having count(*) > 1;
create view kinds as select distinct code, status from orders;
create view latest as select id, customer_id, placed, total from orders order by placed desc nulls last, id limit 10;
create view ranked as
    select customer_id, id, row_number() over (partition by customer_id order by total desc nulls last, id) as place
    from orders;
create view ranked_over_all as
    select customer_id, id, row_number() over (order by total desc nulls last, id) as place from orders;
create view everybody as
    select customer_id, name, 'c' as kind from customers union all select customer_id, note, 'o' from shop.orders;
create view words as select note as word from orders union select name from customers;
create view rates as select c.code, c.name, r.iso, r.rate from country c left join currency r on r.country = c.code;
create view large_by_rate as
    select l.customer_id, l.id, r.iso, l.total * r.rate as value from large l join rates r on r.code = l.code;
create view best as select * from large_by_rate where value is not null order by value desc, id limit 5;
create view shadowed as
    with orders as (select * from shop.customers) select customer_id, name from orders where level > 1;
create view "Odd View" ("Customer Id", "100%", "x:y", "a""b") as
    select "Customer Id", "100%", "x:y", "a""b" || ' :no $1 100% ''x' from "Order Line" where "select" is not null;
create view named as
    select c.customer_id, "Full Name", k.name as country from customers c left join country k using (code);
create view shouts as select id, lower(status) as shout from orders where status > 'sad';
create view seven as select id, total from orders where customer_id = 7;
create recursive view bosses (login, boss, depth) as
    select login, boss, 1 from people where boss is null
    union all select p.login, p.boss, b.depth + 1 from people p join bosses b on b.login = p.boss;
create view days as select id, placed, now() as seen from orders where placed_at < now();
create view numbers (n) as values (1), (2), (7);
create view even as select k, id, o, os, gm from zoo where id % 2 = 0;
create view oldest as select id, max(m) as m, count(*) as n from cubs group by id;
"""

TABLES: Mapping[str, TableKind] = {
    "country": Reference(),
    "currency": Reference(),
    "void": Reference(),
    "keepers": Reference(),
    "customers": Sharded("customer_id"),
    "orders": Sharded("customer_id"),
    "items": Sharded("customer_id"),
    "Order Line": Sharded("Customer Id"),
    "short": Sharded("customer_id"),
    "tiny": Sharded("customer_id"),
    "nothing": Sharded("customer_id"),
    "lone": Sharded("customer_id"),
    "visits": Sharded("visit_id"),
    "people": Sharded("login"),
    "logins": Sharded("login"),
    "cpeople": Sharded("login"),
    "ledger": Sharded(("region", "account")),
    "balances": Sharded(("region", "account")),
    "daily": Sharded("day"),
    "blobs": Sharded("k"),
    "zoo": Sharded("k"),
    "cubs": Sharded("k"),
}

CUSTOMERS = 40
#: This customer has most of the orders.
HEAVY = 7
_DAY = datetime.date(2024, 1, 31)
_TIME = datetime.datetime(2024, 3, 31, 0, 30, tzinfo=datetime.UTC)
_CODES = ("de", "fr", "JP", "us", "br")
_WORDS = ("apple", "Apple", "äpfel", "zebra", "Zulu", "", "a%b", "it's", "_x", "a:b", "now", "ß", "42", "apple pie")


def uid(number: int) -> uuid.UUID:
    return uuid.UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128))


def rows() -> dict[str, list[tuple[Any, ...]]]:
    """Return table -> its rows, without generated columns, in an order that keeps foreign keys."""
    rng = random.Random(42)
    found: dict[str, list[tuple[Any, ...]]] = {
        "country": [
            ("de", "Germany", "Europe", 83_000_000, 1),
            ("fr", "France", "Europe", 68_000_000, 2),
            ("JP", "Japan", "asia", 125_000_000, None),
            ("us", "United States", None, 333_000_000, 7),
            ("br", "Brazil", "America", None, 7),
            ("aq", "Antarctica", "antarctica", 0, 999),
        ],
        "currency": [
            (1, "EUR", Decimal("1.0"), "de"),
            (2, "EUR", Decimal("1.00"), "fr"),
            (3, "JPY", Decimal("161.55"), "JP"),
            (4, "USD", None, "us"),
            (5, "BRL", Decimal("5.4"), None),
        ],
        "void": [],
        "customers": [_customer(rng, number) for number in range(1, CUSTOMERS + 1)],
    }
    orders = [_order(rng, number, _owner(rng, number)) for number in range(1, 241)]
    found["orders"] = orders
    found["items"] = [
        _item(rng, customer, order, line)
        for order, customer, *_ in orders
        for line in range(1, rng.choice((0, 0, 1, 2, 3)) + 1)
    ]
    found["Order Line"] = [_line(rng, number) for number in range(30)]
    found["short"] = [(number % 9 - 3, number, _maybe(rng, rng.choice(_WORDS))) for number in range(25)]
    found["tiny"] = [(number, _maybe(rng, number * number)) for number in (1, 1, 2, 3, 7, 7, -5)]
    found["nothing"] = []
    found["lone"] = [(3, 1), (3, 2), (3, None)]
    found["visits"] = [_visit(rng, number) for number in range(1, 41)]
    found["people"] = [
        *(_person(rng, number) for number in range(14)),
        ("Zoë", "user1", None, None, None),
        ("", None, 5, 7, _DAY),
        ("42", "42", 42, 42, _DAY),
    ]
    found["logins"] = [
        (f"user{number % 6}", _maybe(rng, number), datetime.time(number % 24, 5)) for number in range(20)
    ] + [("Zoë", 1, None), ("nobody", 2, datetime.time(0, 0))]
    found["cpeople"] = [(f"user{number}", number) for number in range(0, 20, 3)] + [("Zoë", 100)]
    found["ledger"] = [
        (region, account, entry, _maybe(rng, _money(rng, 4)), rng.choice((1, 2, 7, None)))
        for region in ("north", "south", "")
        for account in (1, 2, 3, -1)
        for entry in range(rng.randint(1, 4))
    ]
    found["balances"] = [
        (region, account, _maybe(rng, account == 1)) for region in ("north", "south") for account in (1, 2, 9)
    ]
    found["daily"] = [
        (_DAY + datetime.timedelta(days=number % 11), _maybe(rng, number % 5), _maybe(rng, number), number / 7)
        for number in range(33)
    ]
    found["blobs"] = [(bytes([number, 0, 255]), _maybe(rng, number)) for number in range(12)] + [(b"", 0)]
    found["zoo"] = [_animal(number) for number in range(30)]
    found["cubs"] = [
        (number % 7, number % 10, (*_MOODS, None)[number % 4], f'("({_MOODS[number % 3]},{number})",,)')
        for number in range(20)
    ]
    found["keepers"] = [
        (number, _MOODS[number % 3], f'("({_MOODS[number % 3]},{number})","{{sad}}",)', _NESTED) for number in range(5)
    ]
    return found


_MOODS = ("sad", "ok", "happy")
_NESTED = '{"(\\"(sad,1)\\",{ok},x)",NULL}'


def _animal(n: int) -> tuple[Any, ...]:
    """A row with a value of each type that is rare; every fifth or so is NULL."""
    mood = _MOODS[n % 3]
    nested = f'("({mood},{n})","{{sad,{mood}}}","a,""{n}")'
    values: tuple[str, ...] = (
        *(f"a{n}@x", ("ok", "happy")[n % 2], f"{{{n},2}}", nested, _NESTED, f'{{"(ok,{n})"}}', f"[{n},{n + 2})"),
        *(f"[{n},99]", "{[1,2],[5,7]}", "{[2024-01-01,2024-02-01)}", f"{n % 24:02}:00:00+0{n % 4}", "1010"),
        *("1" * (n % 5 + 1), f"10.0.0.{n}/2{n % 9}", f"10.{n}.0.0/16", f"08:00:2b:01:02:{n:02x}"),
        *(f'{{"a": {n}, "a": 2}}', f"({n},{n % 3})", "abc"[n % 3], f"Name{n % 4}", f"{n}.50", f"a b c{n % 3}"),
        *("a & b", f"0/{n}", "$.a[*]", str(n * 100), f"0.0001{n % 9}", f"{n} days 01:02:03.6"),
        *(f"2024-01-01 00:00:00.{n}", "xy"[n % 2], '{abc,"d e"}', nested, _NESTED.replace(",NULL", ""), "{ok,happy}"),
        *(f"({n},1),(0,0)", f"{{[1,{n + 3})}}", str(n), "abcd"[: n % 5]),
    )
    return (n % 9, n, *(None if (n * 7 + place) % 5 == 0 else value for place, value in enumerate(values)))


def _owner(rng: random.Random, number: int) -> int:
    """Most orders are the heavy customer's; the last customers have none."""
    return HEAVY if number % 2 else rng.randint(1, CUSTOMERS - 8)


def _maybe(rng: random.Random, value: Any) -> Any:
    return None if rng.random() < 0.2 else value


def _money(rng: random.Random, scale: int) -> Decimal:
    return Decimal(rng.randint(-500, 9999)).scaleb(-scale)


def _item(rng: random.Random, customer: int, order: int, line: int) -> tuple[Any, ...]:
    return (
        customer,
        order,
        line,
        rng.choice(_WORDS),
        _maybe(rng, rng.randint(0, 5)),
        _maybe(rng, _money(rng, 3)),
        _maybe(rng, rng.random() < 0.3),
        _maybe(rng, _money(rng, 2)),
    )


def _line(rng: random.Random, number: int) -> tuple[Any, ...]:
    return (
        number % 13 + 1,
        _maybe(rng, number),
        _maybe(rng, rng.choice(_WORDS)),
        _maybe(rng, "q" + str(number % 3)),
        _maybe(rng, Decimal(number) / 8),
        "v:" + str(number),
        _maybe(rng, number % 2 == 0),
    )


def _visit(rng: random.Random, number: int) -> tuple[Any, ...]:
    return (
        uid(number),
        _maybe(rng, number % CUSTOMERS + 1),
        rng.choice(("/", "/a", "/b", None)),
        _TIME.replace(tzinfo=None) + datetime.timedelta(minutes=37 * number),
        _maybe(rng, f"user{number % 9}"),
    )


def _person(rng: random.Random, number: int) -> tuple[Any, ...]:
    boss = f"user{number // 3}" if number else None
    return f"user{number}", boss, _maybe(rng, 20 + number), number + 1, _DAY + datetime.timedelta(days=number % 4)


def _customer(rng: random.Random, number: int) -> tuple[Any, ...]:
    return (
        number,
        _maybe(rng, rng.choice(_WORDS)),
        _maybe(rng, rng.choice(_WORDS)),
        _maybe(rng, rng.choice(_CODES)),
        _maybe(rng, rng.choice(("sad", "ok", "happy"))),
        _maybe(rng, f"u{number}@example.org"),
        _maybe(rng, number % 3 == 0),
        _maybe(rng, _money(rng, 2)),
        _maybe(rng, _DAY - datetime.timedelta(days=rng.randint(0, 9000))),
        _maybe(rng, _TIME + datetime.timedelta(hours=7 * number)),
        _maybe(rng, [rng.choice(("a", "b", "C", None)) for _ in range(number % 4)]),
        _maybe(rng, f'{{"n": {number}, "list": [1, null, "x"], "deep": {{"k": "v{number % 3}"}}}}'),
        _maybe(rng, number % 5),
        _maybe(rng, number + 17),
        _maybe(rng, f"({number % 3},{number % 2})"),
    )


def _order(rng: random.Random, number: int, customer: int) -> tuple[Any, ...]:
    low = rng.randint(-3, 5)
    scale = rng.choice(("1.0", "1.00", "2", "2.000", "-7.5", "10", "0.00000000001"))
    return (
        number,
        customer,
        _maybe(rng, _money(rng, 2)),
        _maybe(rng, rng.choice((0.1, 0.2, -1.5, 1e10, 3.25, 0.0))),
        _maybe(rng, rng.choice((0.1, 2.5, -3.75, 100.0))),
        _maybe(rng, rng.randint(-20, 100)),
        _maybe(rng, rng.choice((1, 2, 3, 32767, -32768))),
        _maybe(rng, _DAY + datetime.timedelta(days=rng.randint(0, 90))),
        _maybe(rng, _TIME + datetime.timedelta(minutes=rng.randint(0, 4000))),
        _maybe(rng, rng.choice(("sad", "ok", "happy"))),
        _maybe(rng, rng.choice(_WORDS)),
        _maybe(rng, rng.choice(_WORDS)),
        _maybe(rng, rng.random() < 0.5),
        _maybe(rng, Decimal(scale)),
        _maybe(rng, rng.choice(_CODES)),
        _maybe(rng, f"[{low},{low + rng.randint(0, 4)})"),
        _maybe(rng, f'{{"k": {number % 4}, "s": "x{number % 3}"}}'),
        _maybe(rng, [rng.choice((1, 2, 3, None)) for _ in range(number % 4)]),
        _maybe(rng, uid(number % 50)),
        _maybe(rng, rng.choice((1, 9_000_000_000, -3_000_000_000, number))),
        _maybe(rng, datetime.timedelta(days=rng.randint(0, 3), seconds=rng.randint(0, 86399))),
        _maybe(rng, rng.choice(("ab", "ab  ", "abcdef", ""))),
        _maybe(rng, rng.choice(("{}", "{sad}", "{happy,ok}", "{NULL,sad}"))),
    )
