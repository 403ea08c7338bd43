"""An unsharded shop that is written all the time, and the keyspace that it moves into."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2

from shardpool import Router
from tests.support.backends import plain_connection

OLD_SHOP = """
CREATE TYPE mood AS ENUM ('fine', 'so so');
CREATE TABLE country (code text PRIMARY KEY, name text NOT NULL DEFAULT '?');
CREATE TABLE customers (
    id bigint PRIMARY KEY, country text NOT NULL REFERENCES country, name text NOT NULL CHECK (name <> ''),
    feels mood DEFAULT 'fine', seen timestamptz DEFAULT now(), tags text[], extra jsonb, weight double precision,
    shout text GENERATED ALWAYS AS (upper(name)) STORED, UNIQUE (id, name)
);
CREATE TABLE orders (
    customer_id bigint NOT NULL REFERENCES customers ON DELETE CASCADE, number integer NOT NULL, total numeric(12,2),
    PRIMARY KEY (customer_id, number)
);
CREATE TABLE items (
    customer_id bigint NOT NULL, number integer NOT NULL, line smallint NOT NULL, product text,
    PRIMARY KEY (customer_id, number, line), FOREIGN KEY (customer_id, number) REFERENCES orders ON UPDATE CASCADE
    ON DELETE CASCADE
);
CREATE INDEX by_total ON orders (total) WHERE total > 0;
CREATE UNIQUE INDEX by_product ON items (customer_id, product, number, line);
CREATE VIEW rich AS SELECT * FROM orders WHERE total > 1000;
INSERT INTO country VALUES ('de', 'Germany'), ('fr', 'France');
INSERT INTO customers (id, country, name, tags, extra, weight)
    SELECT n, CASE n % 2 WHEN 0 THEN 'de' ELSE 'fr' END, E'n\\t' || n, ARRAY['a', NULL, 'b c'], '{"a": [1, 2]}', n / 3.0
    FROM generate_series(1, 600) n;
INSERT INTO orders SELECT n, k, n * 1.25 FROM generate_series(1, 600) n, generate_series(1, 3) k;
INSERT INTO items SELECT n, k, l, 'p' || l
    FROM generate_series(1, 600) n, generate_series(1, 2) k, generate_series(1, 2) l;
"""
TABLES = ("country", "customers", "orders", "items")

SPEC = """
job = "import"
name = "move-in"
[from]
url = "{url}"
[run]
chunk_rows = 100
[tables]
country = {{ reference = true }}
customers = {{ key = "id" }}
orders = {{ key = "customer_id" }}
items = {{ key = "customer_id" }}
"""


class Writer(threading.Thread):
    """Changes the old shop until it is told to stop, or is refused. Counts what was acknowledged."""

    def __init__(self, url: str, seed: int) -> None:
        super().__init__(name="writer")
        self._url, self._choose = url, random.Random(seed)
        self.stop = threading.Event()
        self.done = 0
        self.refused = ""
        self.failed: BaseException | None = None

    def run(self) -> None:
        connection = plain_connection(self._url)
        try:
            with connection.cursor() as cursor:
                while not self.stop.is_set():
                    cursor.execute(*self._statement())
                    self.done += 1
        except psycopg2.errors.ObjectNotInPrerequisiteState as error:
            self.refused = str(error)
        except BaseException as error:
            self.failed = error
        finally:
            connection.close()

    def _statement(self) -> tuple[str, tuple[Any, ...]]:
        n, kind = self._choose.randrange(1, 700), self._choose.randrange(8)
        match kind:
            case 0:
                return "INSERT INTO customers (id, country, name) VALUES (%s, 'de', 'new') ON CONFLICT DO NOTHING", (n,)
            case 1:
                return "DELETE FROM customers WHERE id = %s AND id %% 5 = 0", (n,)
            case 2:
                return "UPDATE customers SET name = name || 'x', seen = now() WHERE id = %s", (n,)
            case 3:
                return "UPDATE orders SET number = number + 100 WHERE customer_id = %s AND number = 3", (n,)
            case 4:
                return "UPDATE items SET product = product || '!' WHERE customer_id = %s", (n,)
            case 5:
                return "UPDATE country SET name = %s WHERE code = 'fr'", (f"France {n}",)
            case 6:
                query = "INSERT INTO orders SELECT id, 7, 1 FROM customers WHERE id = %s ON CONFLICT DO NOTHING"
                return query, (n,)
        return "DELETE FROM items WHERE customer_id = %s AND line = 2", (n,)


@contextmanager
def writing(url: str, seed: int) -> Iterator[Writer]:
    """Let a writer write while the block runs, and have begun before."""
    writer = Writer(url, seed)
    writer.start()
    try:
        while writer.done < 20 and writer.is_alive():
            writer.join(0.01)
        yield writer
    finally:
        writer.stop.set()
        writer.join()


def rows_in(url: str, table: str) -> list[str]:
    connection = plain_connection(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SET timezone = 'UTC'; SELECT t::text FROM {table} t")
            return sorted(row for (row,) in cursor.fetchall())
    finally:
        connection.close()


def check_moved_in(router: Router, url: str) -> None:
    """Both sides have the same rows, and the keyspace has what the tables promised."""
    router.refresh()
    for table in TABLES:
        found = sorted(row[0] for row in router.query(f"SELECT t::text FROM {table} t"))
        assert (table, found) == (table, rows_in(url, table))
    for placement in router.shard_map.placements:
        with router.engines.borrow(placement.shard) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT (SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND connamespace = %s::regnamespace), "
                "(SELECT count(*) FROM pg_indexes WHERE schemaname = %s)",
                (placement.partition.schema, placement.partition.schema),
            )
            assert cursor.fetchone() == (3, 6)


def leftovers(url: str) -> list[str]:
    """What a move-in has put into the old database."""
    connection = plain_connection(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT tgname::text FROM pg_trigger WHERE tgname ~ '^shardpool' ORDER BY 1")
            return [name for (name,) in cursor.fetchall()]
    finally:
        connection.close()
