"""A shop full of persons, its anonymous copy, and how the two are compared."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from shardpool import Reference, Router, Sharded, read_config
from shardpool.local.binaries import programs

SECRET = "correct horse battery staple"
VARIABLE = "SHOP_SECRET"

DDL = """
CREATE TABLE country (code text PRIMARY KEY, name text NOT NULL);
CREATE TABLE customers (
    customer_id bigint PRIMARY KEY, country_code text NOT NULL REFERENCES country, name text NOT NULL,
    email text NOT NULL, phone varchar(20), born date, postcode text, income numeric(12,2), score integer,
    tag uuid NOT NULL, remarks text, internal text, nickname text
);
CREATE TABLE orders (
    customer_id bigint NOT NULL REFERENCES customers, order_id integer NOT NULL, total numeric(12,2) NOT NULL,
    status text NOT NULL, PRIMARY KEY (customer_id, order_id)
);
CREATE TABLE order_items (
    customer_id bigint NOT NULL, order_id integer NOT NULL, line smallint NOT NULL, product text NOT NULL,
    PRIMARY KEY (customer_id, order_id, line), FOREIGN KEY (customer_id, order_id) REFERENCES orders
);
CREATE TABLE mails (sent_to bigint NOT NULL, subject text);
CREATE UNIQUE INDEX by_email ON customers (customer_id, email);
"""
TABLES = {
    "country": Reference(),
    "customers": Sharded("customer_id"),
    "orders": Sharded("customer_id"),
    "order_items": Sharded("customer_id"),
    "mails": Sharded("sent_to"),
}

SPEC = f"""
job = "anonymise"
name = "for-tests"
locale = "de_DE"
keep_tables = ["country"]

[to]
config = "anon.toml"

[secret]
env = "{VARIABLE}"

[run]
chunk_rows = 50

[tables.customers]
customer_id = "pseudonym"
name = {{ rule = "fake", kind = "name" }}
email = {{ rule = "pseudonym", as = "email" }}
phone = {{ rule = "mask", keep_first = 3 }}
born = {{ rule = "generalise", to = "year" }}
postcode = {{ rule = "generalise", keep_first = 2 }}
income = {{ rule = "noise", percent = 10 }}
score = "shuffle"
tag = "pseudonym"
remarks = "scrub"
internal = "null"
nickname = {{ rule = "constant", value = "x" }}

[tables.orders]
order_id = "pseudonym"
total = {{ rule = "noise", amount = 5 }}
status = "keep"

[tables.order_items]
line = "keep"
product = "keep"

[tables.mails]
sent_to = {{ rule = "pseudonym", domain = "customers.customer_id" }}
subject = "scrub"
"""

#: Columns of which no value may be seen again, anywhere.
GONE = {
    "customers": ("customer_id", "name", "email", "phone", "tag", "internal", "nickname", "income"),
    "orders": ("customer_id",),
    "order_items": ("customer_id",),
    "mails": ("sent_to",),
}
JOINS = (
    ("customers", "country", "country_code", "code"),
    ("orders", "customers", "customer_id", "customer_id"),
    ("order_items", "orders", "customer_id, order_id", "customer_id, order_id"),
    ("mails", "customers", "sent_to", "customer_id"),
)


def persons(seed: int, count: int = 300) -> list[tuple[Any, ...]]:
    choose = random.Random(seed)
    rows = []
    for n in range(count):
        name = f"Zacharias{n} Quux-Nr{n}"
        phone = None if n % 11 == 0 else f"+49 {choose.randrange(10**9, 10**10)}"
        remarks = f"call {phone or '+49 151 2345678'}, or write\tto z{n}@mail.invalid; born 1970-01-02\nok"
        rows.append(
            (
                *(7_000_000_000 + n * 37, "de" if n % 3 else "fr", name, f"z{n}@mail.invalid", phone),
                *(f"19{50 + n % 50}-0{1 + n % 9}-1{n % 10}", f"{80000 + n}", f"{40000.25 + n * 13:.2f}", n % 100),
                *(f"00000000-0000-4000-8000-{n:012d}", remarks, f"secret note {n}", f"Zacki{n}"),
            )
        )
    return rows


def fill(router: Router, seed: int) -> None:
    router.create_schema(DDL, TABLES)
    customers = persons(seed)
    router.copy_into("country", [("de", "Germany"), ("fr", "France")])
    router.copy_into("customers", customers)
    keys = [row[0] for row in customers]
    router.copy_into("orders", [(key, n, "10.50", "paid") for key in keys[::2] for n in range(1, 4)])
    items = [(key, n, line, "thing") for key in keys[::2] for n in (1, 3) for line in (1, 2)]
    router.copy_into("order_items", items)
    router.copy_into("mails", [(key, f"Dear z{n}@mail.invalid") for n, key in enumerate(keys) for _ in range(n % 3)])


@contextmanager
def opened(path: Path) -> Iterator[Router]:
    with Router(read_config(path), listen=False) as router:
        yield router


def write_config(path: Path, urls: list[str], keyspace: str, partitions: int = 4) -> Path:
    shards = "".join(f'[shards.s{n}]\nurl = "{url}"\n' for n, url in enumerate(urls))
    path.write_text(f'keyspace = "{keyspace}"\npartitions = {partitions}\ncatalog = "{urls[0]}"\n{shards}')
    return path


def sizes_of_joins(router: Router) -> list[Any]:
    """For every reference: how many rows find their parent, and how many each parent has."""
    found: list[Any] = []
    for child, parent, columns, parent_columns in JOINS:
        pairs = zip(columns.split(", "), parent_columns.split(", "), strict=True)
        on = " AND ".join(f"c.{one} = p.{other}" for one, other in pairs)
        found.append(router.query(f"SELECT count(*) FROM {child} c JOIN {parent} p ON {on}").scalar_one())
        counts = router.query(f"SELECT count(*) FROM {child} GROUP BY {columns}")
        found.append(sorted(Counter(row[0] for row in counts).items()))
    return found


def dump(router: Router) -> str:
    """Everything that the servers of a keyspace have, catalog included, as pg_dump tells it."""
    program = programs(18, None) / "pg_dump"
    out = []
    for shard in router.shard_map.shards.values():
        url = make_url(shard.url)
        done = subprocess.run(
            [program, "-h", str(url.host), "-p", str(url.port), "-U", str(url.username), str(url.database)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        out.append(done.stdout)
    return "\n".join(out)


def content(router: Router) -> dict[str, list[str]]:
    """All rows of all tables, in an order of their own."""
    return {name: sorted(map(repr, router.query(f"SELECT * FROM {name}"))) for name in TABLES}
