"""Generated writes, and the two databases that must agree on them: one plain PostgreSQL, and the cluster."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
from sqlalchemy.exc import DBAPIError

from shardpool import Reference, Router, Sharded, parse_config
from shardpool.errors import CrossShardTransaction, UnsupportedStatement
from tests.support.backends import databases, plain_connection

DDL = """
CREATE TABLE country (code text PRIMARY KEY, name text NOT NULL, size int DEFAULT 7);
CREATE TABLE orders (
    customer bigint NOT NULL, id int NOT NULL, total numeric(10,2), note text DEFAULT 'none',
    code text REFERENCES country, placed date, CHECK (total IS NULL OR total < 10000), PRIMARY KEY (customer, id)
);
CREATE TABLE items (
    customer bigint NOT NULL, id int NOT NULL, line int NOT NULL, quantity int DEFAULT 1, product text,
    PRIMARY KEY (customer, id, line), FOREIGN KEY (customer, id) REFERENCES orders ON DELETE CASCADE
);
CREATE TABLE sums (customer bigint PRIMARY KEY, orders bigint, total numeric);
CREATE TABLE members (customer bigint, id int, email text, nick text DEFAULT 'none', PRIMARY KEY (customer, id));
CREATE TABLE users (customer bigint PRIMARY KEY, login text, visits int DEFAULT 1);
"""
#: What keeps e-mails unique: reservations here; there a constraint, and a view that looks like the reservations.
RESERVATIONS = """
CREATE TABLE emails (email text PRIMARY KEY, customer bigint NOT NULL);
CREATE TABLE logins (login text PRIMARY KEY, customer bigint NOT NULL);
"""
UNIQUE = """
ALTER TABLE members ADD UNIQUE (email) DEFERRABLE INITIALLY IMMEDIATE;
CREATE VIEW emails AS SELECT email, customer FROM members WHERE email IS NOT NULL;
ALTER TABLE users ADD UNIQUE (login) DEFERRABLE INITIALLY IMMEDIATE;
CREATE VIEW logins AS SELECT login, customer FROM users WHERE login IS NOT NULL;
"""
TABLES = {
    "country": Reference(),
    "orders": Sharded("customer"),
    "items": Sharded("customer"),
    "sums": Sharded("customer"),
    "members": Sharded("customer", {"email": "emails"}),
    "emails": Sharded("email"),
    "users": Sharded("customer", {"login": "logins"}),
    "logins": Sharded("login"),
}
CODES = ("de", "fr", "it", "es")
#: The version since which MERGE has NOT MATCHED BY SOURCE; found first, it is merged on older ones, too.
BY_SOURCE = 170000
KEYS = 12

Parameters = dict[str, Any]
Execute = Callable[[str, Parameters], Any]


@dataclass
class Both:
    """`cluster` and `plain`, a psycopg2 connection in autocommit mode."""

    router: Router
    plain: Any

    def rows(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """The contents of all tables in the cluster, each row where its key belongs, and in the plain database."""
        return {table: self._cluster_rows(table) for table in TABLES}, {
            table: sorted(map(repr, self._ask(self.plain, f"SELECT * FROM {table}"))) for table in TABLES
        }

    def _cluster_rows(self, table: str) -> list[str]:
        kind = TABLES[table]
        if isinstance(kind, Reference):
            copies = []
            for shard in sorted(self.router.shard_map.shards):
                with self.router.engines.borrow(shard) as connection:
                    copies.append(sorted(map(repr, self._ask(connection, f"SELECT * FROM shop.{table}"))))
            assert all(copy == copies[0] for copy in copies), f"the copies of {table} differ: {copies}"
            return copies[0]
        found = []
        for placement in self.router.shard_map.placements:
            with self.router.engines.borrow(placement.shard) as connection:
                for row in self._ask(connection, f"SELECT * FROM {placement.partition.schema}.{table}"):
                    assert self.router.partition_of(row[0]) == placement.partition, (table, row)
                    found.append(repr(row))
        return sorted(found)

    @staticmethod
    def _ask(connection: Any, query: str) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())


@contextmanager
def open_both(server_urls: list[str]) -> Iterator[Both]:
    with databases(server_urls) as urls, databases(server_urls[:1]) as (other,):
        shards = {f"s{number}": {"url": url} for number, url in enumerate(urls)}
        config = parse_config({"keyspace": "shop", "partitions": 6, "catalog": urls[0], "shards": shards}, "test")
        Router.initialise(config)
        plain = plain_connection(other)
        try:
            with Router(config, listen=False) as router:
                router.create_schema(DDL + RESERVATIONS, TABLES)
                with plain.cursor() as cursor:
                    cursor.execute(DDL + UNIQUE)
                yield Both(router, plain)
        finally:
            plain.close()


@contextmanager
def emptied(both: Both) -> Iterator[Both]:
    """Give both sides with empty tables; afterwards no connection of the router may be in use."""
    both.plain.rollback()
    with both.plain.cursor() as cursor:
        cursor.execute("TRUNCATE country, orders, items, sums, members, users")
    for table in ("orders CASCADE", "sums", "country CASCADE", "members, emails", "users, logins"):
        both.router.query(f"TRUNCATE {table}")
    both.router._forget_plans()
    yield both
    both.router._forget_plans()
    assert all(stats.in_use == 0 for stats in both.router.stats().pools.values())


@dataclass(frozen=True)
class Answer:
    """What a statement did: its rows in any order and their number, an SQLSTATE, or a refusal's code."""

    rows: tuple[str, ...] = ()
    count: int = 0
    state: str = ""
    refused: str = ""

    def agrees(self, other: Answer) -> bool:
        """Of a statement with several faults each side may name another one."""
        return bool(self.state and other.state) or self == other


def on_cluster(execute: Execute, sql: str, parameters: Parameters) -> Answer:
    try:
        result = execute(sql, parameters)
    except UnsupportedStatement as error:
        return Answer(refused=error.code)
    except CrossShardTransaction:
        return Answer(refused="key")
    except DBAPIError as error:
        return Answer(state=str(getattr(error.orig, "pgcode", "")))
    rows = sorted(repr(tuple(row)) for row in result.rows)
    return Answer(tuple(rows), result.rowcount)


def on_plain(connection: Any, sql: str, parameters: Parameters) -> Answer:
    words = sql.replace("%", "%%")
    for name in sorted(parameters, key=len, reverse=True):
        words = words.replace(f":{name}", f"%({name})s")
    with connection.cursor() as cursor:
        try:
            cursor.execute(words, parameters)
        except psycopg2.Error as error:
            return Answer(state=str(error.pgcode))
        rows = sorted(repr(row) for row in cursor.fetchall()) if cursor.description else []
        return Answer(tuple(rows), cursor.rowcount)


class Generator:
    """Statements by seed, for servers of *version*."""

    def __init__(self, seed: int, version: int) -> None:
        self._random = random.Random(seed)
        self._version = version

    def statement(self) -> tuple[str, Parameters]:
        kinds = [self._insert] * 5 + [self._update] * 4 + [self._delete] * 2 + [self._select_into] * 2
        kinds += [self._reference] * 3 + [self._odd] * 2 + [self._moved] * 2 + [self._elsewhere] * 3
        kinds += [self._merge] * 3 + [self._in_with] * 2 + [self._unique] * 4 + [self._upsert] * 3
        return self._random.choice(kinds)()

    def _pick(self, *choices: str) -> str:
        return self._random.choice(choices)

    def _key(self) -> int:
        return self._random.randrange(KEYS)

    def _condition(self, alias: str = "") -> tuple[str, Parameters]:
        parameters: Parameters = {}
        parts = []
        for number in range(self._random.choice([0, 1, 1, 1, 2])):
            key = f"p{number}"
            part, value = self._random.choice(
                [
                    (f"{alias}customer = :{key}", self._key()),
                    (f"{alias}customer = {self._key()}", None),
                    (f"{alias}customer IN ({self._key()}, {self._key()}, {self._key()})", None),
                    (f"{alias}customer = ANY(:{key})", [self._key(), self._key()]),
                    (f"({alias}customer = {self._key()} OR {alias}customer = {self._key()})", None),
                    (f"{alias}customer > :{key}", self._key()),
                    (f"{alias}customer IN ({self._key()}, NULL)", None),
                    (f"{alias}id = :{key}", self._random.randrange(5)),
                    (f"{alias}id IS NOT NULL AND {alias}id % 2 = 1", None),
                    (f"NOT {alias}customer = {self._key()}", None),
                    ("true", None),
                    ("false", None),
                ]
            )
            parts.append(part)
            if value is not None:
                parameters[key] = value
        return (" WHERE " + " AND ".join(parts) if parts else ""), parameters

    def _returning(self, *columns: str) -> str:
        picked = self._random.sample(columns, self._random.randrange(1, len(columns) + 1))
        return self._pick("", f" RETURNING {', '.join(picked)}", " RETURNING *" if len(columns) > 2 else "")

    def _insert(self) -> tuple[str, Parameters]:
        table = self._pick("orders", "orders", "items", "sums")
        parameters: Parameters = {}
        rows = []
        for number in range(self._random.choice([1, 1, 2, 3, 8])):
            key = str(self._key())
            if self._random.random() < 0.4:
                parameters[f"k{number}"], key = int(key), f":k{number}"
            if table == "orders":
                total = self._pick("NULL", "1.005", "DEFAULT", "2 + 2", "20000", "abs(-3)", "9.99", "1")
                note = self._pick("'a'", "DEFAULT", "lower('B, (') || ')'", "NULL", "'VALUES (1)'")
                code = self._pick("'de'", "'fr'", "NULL", "NULL", "'it'")
                rows.append(f"({key}, {self._random.randrange(5)}, {total}, {note}, {code})")
            elif table == "items":
                rows.append(f"({key}, {self._random.randrange(5)}, {self._random.randrange(3)}, DEFAULT, 'x')")
            else:
                rows.append(f"({key}, {self._random.randrange(9)}, 0.5)")
        columns = {
            "orders": "(customer, id, total, note, code)",
            "items": "(customer, id, line, quantity, product)",
            "sums": "",
        }[table]
        key_columns = {"orders": "customer, id", "items": "customer, id, line", "sums": "customer"}[table]
        update = {"orders": "total = 5", "items": "quantity = items.quantity + 1", "sums": "orders = excluded.orders"}
        conflict = self._pick(
            "",
            "",
            " ON CONFLICT DO NOTHING",
            f" ON CONFLICT ({key_columns}) DO UPDATE SET {update[table]}",
            f" ON CONFLICT ({key_columns}) DO UPDATE SET {update[table]} WHERE {table}.customer > 3",
        )
        returning = self._pick(
            "", "", " RETURNING customer", " RETURNING *", f" RETURNING {table}.customer * 2 AS twice"
        )
        return f"INSERT INTO {table} {columns} VALUES {', '.join(rows)}{conflict}{returning}", parameters

    def _update(self) -> tuple[str, Parameters]:
        condition, parameters = self._condition("o." if self._random.random() < 0.5 else "")
        alias = " o" if "o.customer" in condition or "o.id" in condition else ""
        change = self._pick(
            "total = total + 1",
            "note = note || '!', total = NULL",
            "total = CASE WHEN customer % 2 = 0 THEN 1 ELSE total END",
            "note = DEFAULT",
            "(total, note) = (3, upper(note))",
            "total = total * 1000",
            "code = 'zz'",
            "customer = customer",
            f"customer = {self._key()}",
            "placed = '2026-01-02'",
            "placed = CURRENT_DATE",
            "total = (SELECT max(quantity) FROM items i)",
        )
        if self._random.random() < 0.25 and not alias:
            joined = self._pick("items i", "sums i")
            return (
                f"UPDATE orders SET note = 'joined' FROM {joined} WHERE orders.customer = i.customer "
                f"AND i.customer > {self._key()}{self._returning('orders.customer', 'orders.id', 'note')}".replace(
                    "*", "orders.*"
                ),
                {},
            )
        return f"UPDATE orders{alias} SET {change}{condition}{self._returning('customer', 'id', 'total')}", parameters

    def _delete(self) -> tuple[str, Parameters]:
        table = self._pick("orders", "items")
        if self._random.random() < 0.3:
            return (
                f"DELETE FROM items USING orders o WHERE items.customer = o.customer AND items.id = o.id "
                f"AND o.id = {self._random.randrange(5)}{self._pick('', ' RETURNING items.line, o.id')}",
                {},
            )
        condition, parameters = self._condition()
        condition = condition or f" WHERE customer = {self._key()}"
        return f"DELETE FROM {table}{condition}{self._returning('customer', 'id')}", parameters

    def _select_into(self) -> tuple[str, Parameters]:
        return (
            self._pick(
                "INSERT INTO sums SELECT customer, count(*), sum(total) FROM orders GROUP BY customer "
                "ON CONFLICT (customer) DO UPDATE SET total = excluded.total, orders = excluded.orders",
                "INSERT INTO items (customer, id, line) SELECT customer, id, 9 FROM orders WHERE id < 3 "
                "ON CONFLICT DO NOTHING",
                "INSERT INTO items (customer, id, line) SELECT customer, id, line + 20 FROM items "
                "RETURNING customer, line",
                f"INSERT INTO sums (customer) SELECT customer FROM items WHERE customer = {self._key()} "
                "ON CONFLICT DO NOTHING",
                "INSERT INTO sums (customer, orders) SELECT customer + 1, 1 FROM sums",
                "INSERT INTO items (customer, id, line) SELECT customer, id, 1 FROM orders ORDER BY 2, 1 LIMIT 2",
                "INSERT INTO sums SELECT customer, count(*), 1 FROM orders GROUP BY customer HAVING count(*) > 1",
            ),
            {},
        )

    def _reference(self) -> tuple[str, Parameters]:
        code = self._random.choice(CODES)
        return self._random.choice(
            [
                ("INSERT INTO country VALUES (:code, 'n') ON CONFLICT DO NOTHING", {"code": code}),
                (
                    "MERGE INTO country c USING (SELECT code, max(id) AS id FROM orders GROUP BY code) o "
                    "ON c.code = o.code WHEN MATCHED THEN UPDATE SET size = o.id "
                    "WHEN NOT MATCHED AND id > 2 THEN INSERT VALUES ('x' || id, 'x')",
                    {},
                ),
                (f"INSERT INTO country (code, name) VALUES ('{code}', 'a'), ('xx', 'b') RETURNING code, size", {}),
                (
                    "INSERT INTO country VALUES (:c, 'z', 3) ON CONFLICT (code) DO UPDATE SET size = country.size + 1",
                    {"c": code},
                ),
                ("UPDATE country SET size = size + 1, name = upper(name) RETURNING *", {}),
                ("UPDATE country SET name = name || :x WHERE code = :c", {"x": "+", "c": code}),
                ("DELETE FROM country WHERE code = 'xx'", {}),
                (f"DELETE FROM country WHERE code = '{code}'", {}),
                ("UPDATE country SET size = (SELECT count(*) FROM country)", {}),
                ("UPDATE country SET name = left(now()::text, 4)", {}),
                ("INSERT INTO country SELECT 'q' || code, name FROM country", {}),
            ]
        )

    def _moved(self) -> tuple[str, Parameters]:
        """Changes of the partition key. Far enough that no row takes the key of one that is still to be changed."""
        table, key = self._pick("sums", "sums", "items"), self._key()
        returning = self._pick("", " RETURNING customer", f" RETURNING {table}.*, customer + 1 AS next")
        return (
            self._pick(
                f"UPDATE {table} SET customer = customer + 50 WHERE customer < 50{returning}",
                f"UPDATE {table} SET customer = customer - 50 WHERE customer >= 50{returning}",
                f"UPDATE {table} SET customer = {key + 20} WHERE customer = {key}{returning}",
                f"UPDATE {table} t SET customer = t.customer - 20 WHERE t.customer BETWEEN 20 AND 40",
                f"UPDATE sums SET customer = orders.customer + 100, total = DEFAULT FROM orders "
                f"WHERE orders.customer = sums.orders AND sums.customer = {key} AND orders.id = 1 RETURNING sums.*",
                f"UPDATE sums SET (customer, total) = (customer + 200, 2.5) WHERE total > {key}",
                f"UPDATE sums SET customer = NULL WHERE customer = {key}",
                f"UPDATE orders SET customer = customer + 50 WHERE customer = {key}",
            ),
            {},
        )

    def _elsewhere(self) -> tuple[str, Parameters]:
        """Writes whose rows depend on rows of other partitions."""
        key, small = self._key(), self._random.randrange(5)
        return self._random.choice(
            [
                (f"UPDATE orders SET total = (SELECT max(quantity) FROM items) WHERE id = {small} RETURNING *", {}),
                (
                    "UPDATE orders o SET note = (SELECT min(product) FROM items i WHERE i.line = o.id), total = 7.005",
                    {},
                ),
                (f"UPDATE orders SET total = :t WHERE id = (SELECT min(id) FROM orders WHERE id > {small})", {"t": 3}),
                (
                    "UPDATE sums SET total = o.n FROM (SELECT id, count(*) AS n FROM orders GROUP BY id) o "
                    "WHERE o.id = sums.orders RETURNING sums.customer, total",
                    {},
                ),
                ("UPDATE sums SET orders = NULL, total = '2.25' WHERE orders IN (SELECT line FROM items)", {}),
                (f"DELETE FROM sums USING orders o WHERE sums.orders = o.id AND o.id > {small} RETURNING sums.*", {}),
                (f"DELETE FROM items WHERE quantity < (SELECT avg(quantity) FROM items) AND id <> {small}", {}),
                (
                    "DELETE FROM orders WHERE customer NOT IN (SELECT orders FROM sums WHERE orders IS NOT NULL) "
                    f"AND id = {small} RETURNING customer, id",
                    {},
                ),
                (
                    "INSERT INTO sums SELECT customer + 30, count(*), sum(total) FROM orders GROUP BY 1 "
                    "HAVING count(*) > 1 ON CONFLICT (customer) "
                    "DO UPDATE SET total = excluded.total, orders = sums.orders + 1 RETURNING *",
                    {},
                ),
                (
                    f"INSERT INTO sums (total, customer) SELECT :x, {key} + id FROM orders WHERE id > {small} "
                    "ON CONFLICT DO NOTHING",
                    {"x": 4},
                ),
                (f"INSERT INTO sums (customer) VALUES (40 + {key}), (60 + :k) ON CONFLICT DO NOTHING", {"k": key}),
                (
                    "INSERT INTO orders (customer, id, note, placed) SELECT id, line + 10, 'n', '2026-01-01' "
                    f"FROM items WHERE line = {small} ON CONFLICT DO NOTHING RETURNING *",
                    {},
                ),
                (
                    "INSERT INTO orders (customer, id, total) SELECT customer, id + 20, 20000 FROM orders "
                    "ORDER BY 1, 2 LIMIT 1",
                    {},
                ),
                (
                    "UPDATE country SET size = (SELECT count(*) FROM orders o WHERE o.code = country.code) RETURNING *",
                    {},
                ),
                ("DELETE FROM country WHERE NOT EXISTS (SELECT FROM orders o WHERE o.code = country.code)", {}),
                (
                    "INSERT INTO country SELECT DISTINCT 'p' || id, note FROM orders WHERE note IS NOT NULL "
                    "ORDER BY 1, 2 ON CONFLICT (code) DO NOTHING RETURNING code",
                    {},
                ),
                ("UPDATE sums SET total = total + 1 WHERE now() > DATE '2020-01-01'", {}),
                ("UPDATE orders SET placed = CURRENT_DATE - 1 WHERE id = 2 RETURNING placed < CURRENT_DATE", {}),
            ]
        )

    def _merge(self) -> tuple[str, Parameters]:
        source = self._pick(
            "orders AS o",
            f"(SELECT * FROM orders WHERE customer = {self._key()}) o",
            "(SELECT customer, max(id) AS id, sum(total) AS total FROM orders GROUP BY customer) o",
            "(SELECT id AS customer, count(*) AS id, NULL::numeric AS total FROM orders GROUP BY id) o",
            f"(VALUES (1, 2, 3.5), ({self._key() + 50}, 1, NULL)) AS o(customer, id, total)",
            "(SELECT size AS customer, 1 AS id, 0.5 AS total FROM country WHERE size = 8) o",
        )
        condition = self._pick("", f" AND o.id = {self._random.randrange(5)}", " AND s.total < 5")
        clauses = [
            self._pick("", " WHEN MATCHED AND s.orders > 3 THEN DELETE", " WHEN MATCHED AND o.id = 2 THEN DO NOTHING"),
            self._pick("", " WHEN MATCHED THEN UPDATE SET orders = o.id, total = s.total + o.total"),
            self._pick(
                "",
                " WHEN NOT MATCHED AND o.customer IS NOT NULL THEN INSERT (total, customer) VALUES "
                "(o.total, o.customer)",
                " WHEN NOT MATCHED THEN INSERT (customer) VALUES (o.customer + 1)",
            ),
            self._pick("", "", " WHEN NOT MATCHED BY SOURCE AND s.customer > 20 THEN DELETE"),
        ]
        if self._version < BY_SOURCE:
            clauses.pop()
        clauses = clauses if any(clauses) else [" WHEN MATCHED THEN DELETE"]
        returning = self._pick("", " RETURNING s.customer, o.id")
        join = self._pick(
            "s.customer = o.customer",
            "s.customer = o.customer",
            "s.orders = o.id",
            "s.total = o.total AND o.customer <> s.customer",
            f"s.orders = o.customer AND EXISTS (SELECT FROM orders WHERE id = {self._random.randrange(5)})",
            "s.customer + 1 = o.customer",
        )
        elsewhere = join != "s.customer = o.customer" or any("o.customer + 1" in it for it in clauses)
        if elsewhere and any("INSERT" in it for it in clauses):
            # Whether a row goes before another one comes under its key depends on how PostgreSQL joins.
            clauses = [it for it in clauses if "DELETE" not in it]
        return f"MERGE INTO sums s USING {source} ON {join}{condition}{''.join(clauses)}{returning}", {}

    def _in_with(self) -> tuple[str, Parameters]:
        key = self._key()
        write = self._pick(
            f"DELETE FROM items WHERE line > {self._random.randrange(3)} RETURNING customer, id, line",
            f"UPDATE orders SET total = 3, note = 'w' WHERE id > {self._random.randrange(4)} RETURNING customer, id",
            f"DELETE FROM items USING orders o WHERE o.customer = items.customer AND o.id = items.id "
            f"AND o.customer = {key} RETURNING items.customer, o.id, quantity",
            f"INSERT INTO orders (customer, id, total) VALUES ({key}, 3, 1), ({key + 1}, 3, 2) RETURNING customer, id",
            f"INSERT INTO orders (customer, id) SELECT customer + 5, {key} FROM sums RETURNING customer, id",
            f"UPDATE sums SET customer = customer + 30 WHERE customer = {key} RETURNING customer, orders AS id",
            f"INSERT INTO orders (customer, id) VALUES ({key}, 4) ON CONFLICT DO NOTHING RETURNING customer, id",
        )
        another = self._pick(
            "",
            "",
            ", v AS (INSERT INTO items (line, customer, id) SELECT 9, customer, id FROM w RETURNING customer, line)",
            f", v AS (UPDATE sums SET orders = orders + 1 WHERE customer = {key} RETURNING customer)",
            ", v AS (DELETE FROM sums USING w WHERE sums.customer = w.customer RETURNING sums.customer, total)",
            f", v AS (INSERT INTO sums VALUES ({key}, 1, 1) ON CONFLICT (customer) DO UPDATE SET total = 2)",
        )
        return (
            f"WITH w AS ({write}){another} "
            + self._pick(
                "SELECT * FROM w",
                "SELECT v.* FROM v" if "RETURNING" in another else "SELECT 1 FROM w",
                f"SELECT id FROM w WHERE customer = {key}",
                "SELECT count(*) FROM w",
                "SELECT id, count(*), min(customer) FROM w GROUP BY id HAVING count(*) > 1 ORDER BY 1",
                "SELECT max(customer), array_agg(DISTINCT id) FROM w WHERE id < 3",
                "SELECT count(*), (SELECT count(*) FROM country) FROM w",
                "SELECT w.customer, o.total FROM w JOIN orders o USING (customer)",
                "INSERT INTO items (id, line, customer) SELECT id, 8, customer FROM w RETURNING customer, line",
                "INSERT INTO sums (orders, customer) SELECT id, customer + 1 FROM w",
                "DELETE FROM sums USING w WHERE w.customer = sums.customer RETURNING sums.customer",
                "UPDATE sums SET orders = 0 FROM w WHERE w.customer = sums.customer AND w.id = 1",
            ),
            {},
        )

    def _upsert(self) -> tuple[str, Parameters]:
        """Rows that may be there already, of a table with a column that is unique over all partitions."""
        logins = [self._pick("NULL", *(f"'l{number}'" for number in range(14))) for _ in range(3)]
        keys = self._random.sample(range(KEYS), 3)
        rows = ", ".join(f"({key}, {login})" for key, login in zip(keys, logins, strict=True))
        update = "ON CONFLICT (customer) DO UPDATE SET visits = users.visits + "
        returning = self._pick("", " RETURNING *", " RETURNING customer, visits * 2")
        change = "ON CONFLICT (customer) DO UPDATE SET login = "
        change += self._pick("excluded.login", "users.login || '!'", "NULL", "excluded.login, visits = 0")
        both = "ON CONFLICT (customer, id) DO UPDATE SET " + self._pick("email = excluded.email", "nick = 'n'")
        # What goes before something else comes is left to PostgreSQL: never both under one key.
        source = self._pick(
            "members", "(SELECT customer, nick AS email FROM members)", "(SELECT 3 AS customer, 'l3' AS email)"
        )
        join = self._pick("u.customer = v.customer", "u.login = v.email", "u.visits = v.customer")
        clauses = [
            self._pick(
                " WHEN MATCHED AND u.customer % 2 = 0 THEN DELETE",
                " WHEN NOT MATCHED THEN INSERT (customer, login) VALUES (v.customer + 60, v.email)",
            ),
            self._pick(
                "", " WHEN MATCHED THEN UPDATE SET login = v.email || u.customer", " WHEN MATCHED THEN DO NOTHING"
            ),
        ]
        told = " RETURNING u.login, v.email"
        return self._random.choice(
            [
                (f"INSERT INTO users (customer, login) VALUES {rows} {update} 1{returning}", {}),
                (f"INSERT INTO users VALUES (:k, {logins[0]}, 5) {update} :n", {"k": keys[0], "n": keys[1]}),
                (f"INSERT INTO users VALUES {rows} {update} excluded.visits WHERE users.visits < 4{returning}", {}),
                (f"INSERT INTO users SELECT customer, max(note) FROM orders GROUP BY customer {update} 10", {}),
                (f"INSERT INTO users SELECT customer + 3, login || 'x' FROM users {update} 2{returning}", {}),
                (f"INSERT INTO users (customer, login) VALUES {rows} {change}{returning}", {}),
                (f"INSERT INTO users (customer, login) VALUES {rows} {change} WHERE users.customer > 4{returning}", {}),
                (f"INSERT INTO users SELECT customer + 2, login FROM users {change}{returning}", {}),
                (
                    f"INSERT INTO members (customer, id, email) VALUES ({keys[0]}, 1, {logins[0]}), (3, 1, 'b') {both}",
                    {},
                ),
                (f"INSERT INTO members SELECT customer, 1, login FROM users {both} RETURNING nick", {}),
                (f"MERGE INTO users u USING {source} v ON {join}{''.join(clauses)}{self._pick('', told)}", {}),
                (f"MERGE INTO users u USING {source} v ON {join}{''.join(clauses)}{self._pick('', told)}", {}),
                (f"DELETE FROM users WHERE customer <> {keys[0]}", {}),
                (f"UPDATE users SET login = {logins[0]} WHERE customer = {keys[0]}", {}),
            ]
        )

    def _unique(self) -> tuple[str, Parameters]:
        """Writes of a table with a column that is unique over all partitions."""
        key, small = self._key(), self._random.randrange(3)
        mail = f"'m{self._random.randrange(8)}'"
        conflict = self._pick("", "", " ON CONFLICT (customer, id) DO NOTHING")
        returning = self._pick("", " RETURNING email", ' RETURNING members.*, upper(email) AS "a%b"')
        return self._random.choice(
            [
                (f"INSERT INTO members VALUES ({key}, {small}, {mail}){conflict}{returning}", {}),
                (f"INSERT INTO members (id, customer) VALUES ({small}, :k), (7, {key}){conflict}", {"k": key}),
                (
                    f"INSERT INTO members (email, customer, id) VALUES ({mail}, {key}, 3), (:e, {key}, 4), (NULL, 9, 9)"
                    + conflict,
                    {"e": f"m{small}"},
                ),
                (
                    f"INSERT INTO members SELECT customer, id, {mail} || id || customer FROM orders{conflict}"
                    + returning,
                    {},
                ),
                (
                    f"INSERT INTO members SELECT customer + 20, {small}, email || '+' FROM members "
                    f"ORDER BY customer, id{conflict}",
                    {},
                ),
                (f"INSERT INTO members SELECT customer + 40, {small}, email FROM members WHERE id = {small}", {}),
                (f"DELETE FROM members WHERE customer = {key}{returning}", {}),
                (f"DELETE FROM members WHERE email = {mail} OR length(email) > 4{returning}", {}),
                (f"DELETE FROM members USING sums WHERE sums.orders = members.id AND members.customer > {key}", {}),
                (f"UPDATE members SET email = {mail} WHERE customer = {key} AND id = {small}{returning}", {}),
                (
                    f"UPDATE members SET email = {mail} || customer || id, nick = 'new' WHERE id >= {small}{returning}",
                    {},
                ),
                (
                    "UPDATE members SET email = CASE email WHEN 'm1' THEN 'm2' ELSE 'm1' END "
                    "WHERE email IN ('m1', 'm2')",
                    {},
                ),
                (f"UPDATE members SET email = NULL WHERE customer < {key}", {}),
                (f"UPDATE members SET nick = nick || '!' WHERE customer <> {key}{returning}", {}),
                (f"UPDATE members SET customer = customer + 50 WHERE customer = {key}{returning}", {}),
                (f"UPDATE members SET customer = customer - 50 WHERE customer >= 50 AND id = {small}", {}),
                ("UPDATE members SET email = (SELECT min(note) FROM orders) WHERE email IS NULL AND customer = 9", {}),
                ("DELETE FROM members", {}),
            ]
        )

    def _odd(self) -> tuple[str, Parameters]:
        return (
            self._pick(
                "TRUNCATE sums",
                "TRUNCATE items",
                "TRUNCATE orders",
                "TRUNCATE orders CASCADE" if self._random.random() < 0.2 else "TRUNCATE sums, items",
                "WITH x AS (SELECT 3) DELETE FROM sums WHERE customer = 1",
                "INSERT INTO sums DEFAULT VALUES",
                "INSERT INTO sums VALUES (1, (SELECT count(*) FROM orders))",
                "INSERT INTO sums VALUES (1, 0) ON CONFLICT (customer) DO UPDATE "
                "SET orders = (SELECT count(*) FROM items)",
                "INSERT INTO items (customer, id, line) SELECT customer, id, 2 FROM orders ON CONFLICT "
                "(customer, id, line) DO UPDATE SET quantity = 0 WHERE (SELECT count(*) FROM orders) > 3",
                "WITH orders AS (SELECT 3 AS customer, 1 AS id) INSERT INTO items (customer, id, line) "
                "SELECT customer, id, 7 FROM orders",
                "WITH x AS (SELECT count(*) AS n FROM orders) UPDATE sums SET orders = n FROM x",
                "UPDATE sums SET orders = 1 WHERE customer = 2 AND EXISTS (SELECT FROM orders)",
                "DELETE FROM sums WHERE customer = 2 AND EXISTS (SELECT FROM orders WHERE customer = 2)",
                "UPDATE orders SET total = absent",
                "DELETE FROM sums WHERE 1 / (customer - customer) = 1",
                "WITH gone AS (DELETE FROM sums RETURNING *) SELECT * FROM gone",
            ),
            {},
        )
