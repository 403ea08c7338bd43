"""A keyspace with every kind of data, what the tests see of it behind shardpool's back, and movers to kill."""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
from sqlalchemy import text

from shardpool import Config, Reference, Router, Sharded, faults
from shardpool.moves import ChangePlan, change_partitions, move_partition
from shardpool.moves.modes import Wanted
from shardpool.topology.names import quote
from tests.support.backends import plain_connection
from tests.support.waiting import eventually

DDL = """
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TYPE point3 AS (x int, label text, mood mood);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE country (code text PRIMARY KEY, name text NOT NULL);
CREATE TABLE customers (
    customer_id bigint PRIMARY KEY, name text COLLATE "C", country text REFERENCES country, mood mood DEFAULT 'good'
);
CREATE TABLE orders (
    customer_id bigint NOT NULL REFERENCES customers ON DELETE CASCADE, id bigint, total numeric(10, 2) NOT NULL,
    twice numeric GENERATED ALWAYS AS (total * 2) STORED, parent bigint, note text,
    PRIMARY KEY (customer_id, id),
    CONSTRAINT parent_fk FOREIGN KEY (customer_id, parent) REFERENCES orders (customer_id, id)
        DEFERRABLE INITIALLY DEFERRED
);
CREATE UNIQUE INDEX orders_note ON orders (customer_id, note);
CREATE INDEX ON orders (total) WHERE total > 5;
CREATE TABLE audit (customer_id bigint NOT NULL, id bigint, what text);
CREATE FUNCTION note_order() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO audit VALUES (new.customer_id, new.id, tg_op); RETURN new; END';
CREATE TRIGGER note AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note_order();
CREATE TABLE things (
    customer_id bigint NOT NULL, id int, i2 smallint, f4 real, f8 double precision, n numeric, b boolean, t text,
    v varchar(10), c char(5), raw bytea, d date, ts timestamp, tz timestamptz, ti time, ttz timetz, iv interval,
    u uuid, j json, jb jsonb, ip inet, net cidr, mac macaddr, bits bit varying, pt point, poly polygon,
    r int4range, mr nummultirange, tsv tsvector, tsq tsquery, cash money, moods mood[], ints int[][],
    p3 point3, p3s point3[], pos positive, "odd ""name" text, lsn pg_lsn, acl aclitem[], PRIMARY KEY (customer_id, id)
);
CREATE TABLE plain (customer_id bigint NOT NULL, payload text);
CREATE TABLE nothing_here (customer_id bigint PRIMARY KEY, t text);
ALTER TABLE plain ADD COLUMN extra int DEFAULT 7;
CREATE TABLE "Odd %s ""table""; --" (customer_id bigint NOT NULL, "%(x)s" int, "'; ""--" text);
ALTER TABLE audit REPLICA IDENTITY FULL;
ALTER TABLE plain REPLICA IDENTITY FULL;
ALTER TABLE "Odd %s ""table""; --" REPLICA IDENTITY FULL;
"""
ODD = 'Odd %s "table"; --'
TABLES = {
    "country": Reference(),
    **{
        name: Sharded("customer_id")
        for name in ("customers", "orders", "audit", "things", "plain", "nothing_here", ODD)
    },
}
#: Rows for `things` without customer_id and id: ordinary values, and extreme ones.
THINGS = (
    "1, 1.5, 2.25, 1234567890.0123456789, true, 'täxt', 'v', 'c', '\\xdeadbeef', '2024-02-29', '2024-02-29 01:02:03.5',"
    "'2024-02-29 01:02:03+05', '23:59:60', '01:02:03+05', '1 mon 2 days 3 h', '00000000-0000-0000-0000-000000000001',"
    "'{\"b\": 1, \"a\": [1, 2]}', '{\"b\": 1, \"a\": null}', '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03', B'101',"
    "'(1,2)', '((0,0),(1,1),(1,0))', '[1,5)', '{[1,2),[3,4)}', 'a fat cat', 'fat & cat', 12.34,"
    "'{good,bad}', '{{1,2},{3,4}}', '(1,one,good)', array['(1,\"a,b\",bad)'::point3, null], 3, 'odd', '0/16B3748',"
    "'{=r/shardpool}'",
    "-32768, 'NaN', '-Infinity', 'NaN', false, '', '', '', '', '-infinity', 'infinity', '-infinity', '00:00',"
    "'00:00-15', '-178000000 years', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'null', 'null', '::1', '::/0',"
    "'ff:ff:ff:ff:ff:ff', '', '(inf,nan)', '((0,0))', 'empty', '{}', '', '', '-92233720368547758.08', '{}', '{}',"
    "'(,,)', '{}', 1, E'a\\tb\\\\N\\n', '0/0', '{}'",
)


class Place:
    """A keyspace `shop` on its shards, with a router, and direct ways to the servers."""

    def __init__(self, config: Config) -> None:
        self.config = config
        #: Of the shards that this test looks at by itself.
        self.known = dict(config.shards)
        Router.initialise(config)
        self.router = Router(config, listen=False)

    def close(self) -> None:
        self.router.close()

    def fill(self, customers: int = 60, orders: int = 3) -> None:
        """Create the tables, and rows in all partitions."""
        self.router.create_schema(DDL, TABLES)
        self.router.copy_into("country", [("de", "Germany"), ("fr", "France")])
        self.router.copy_into("customers", [(key, f"c{key}", "de", "bad") for key in range(customers)])
        rows = [(key, order, order, None, f"n{order}") for key in range(customers) for order in range(orders)]
        self.router.copy_into("orders", rows, columns=["customer_id", "id", "total", "parent", "note"])
        self.router.copy_into("plain", [(key, "x" * key, None) for key in range(customers)])
        for partition in self.router.shard_map.partitions:
            key = next(key for key in range(customers) if self.router.partition_of(key) == partition)
            with self.session(self.owner(partition.id), partition.id) as cursor:
                cursor.execute(f"INSERT INTO things (customer_id, id) VALUES ({key}, -1)")
                cursor.execute(f"INSERT INTO {quote(ODD)} VALUES ({key}, 1, '%')")
                for number, values in enumerate(THINGS):
                    cursor.execute(f"INSERT INTO things VALUES ({key}, {number}, {values})")

    # -- behind the back --------------------------------------------------------------------------------------------

    def connect(self, shard: str) -> psycopg2.extensions.connection:
        """A session in autocommit mode that shardpool knows nothing of."""
        return plain_connection(self.known[shard].url)

    def sql(self, shard: str, statement: str) -> list[tuple[Any, ...]]:
        connection = self.connect(shard)
        try:
            cursor = connection.cursor()
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    @contextmanager
    def session(self, shard: str, partition: int | None = None, isolation: str | None = None) -> Iterator[Any]:
        """A cursor of such a session; with *isolation* in a transaction. Its path is the partition's."""
        connection = self.connect(shard)
        try:
            cursor = connection.cursor()
            if partition is not None:
                cursor.execute(f"SET search_path TO {schema(partition)}, shop, public")
            if isolation is not None:
                connection.set_session(isolation_level=isolation, autocommit=False)
            yield cursor
        finally:
            connection.cancel()  # if a thread waits with it, closing it would wait for the thread
            connection.close()

    def owner(self, partition: int) -> str:
        self.router.refresh()
        return self.router.shard_map.owner(partition).name

    def other(self, partition: int) -> str:
        """A shard where the partition is not."""
        return next(name for name in sorted(self.config.shards) if name != self.owner(partition))

    def catalog(self, query: str) -> list[Any]:
        with self.router.catalog.begin() as connection:
            return list(connection.execute(text(query)).all())

    def schemas(self) -> dict[str, list[str]]:
        """Shard -> partition schemas on it, by whatever name."""
        query = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'shop\\_p%' ORDER BY 1"
        return {shard: [name for (name,) in self.sql(shard, query)] for shard in self.router.shard_map.shards}

    def contents(self) -> dict[int, str]:
        """Partition -> a digest of all its rows, read where the catalog says."""
        self.router.refresh()
        return {it.id: self.digest(self.owner(it.id), it.schema) for it in self.router.shard_map.partitions}

    def digest(self, shard: str, schema_name: str) -> str:
        found = hashlib.sha256()
        connection = self.connect(shard)
        cursor = connection.cursor()
        for name in sorted(name for name, kind in TABLES.items() if isinstance(kind, Sharded)):
            cursor.execute(f'SELECT (t.*)::text COLLATE "C" FROM {schema_name}.{quote(name)} t ORDER BY 1')
            found.update(repr((name, cursor.fetchall())).encode())
        connection.close()
        return found.hexdigest()

    def assert_clean(self) -> None:
        """Each partition is on its owner only, and no move left anything behind."""
        self.router.refresh()
        placed = self.router.shard_map.by_shard()
        expected = {shard: sorted(it.schema for it in partitions) for shard, partitions in placed.items()}
        found = self.schemas()
        assert found == {shard: expected.get(shard, []) for shard in self.router.shard_map.shards}, found
        assert not any(placement.moving for placement in self.router.shard_map.placements)
        assert self.catalog("SELECT * FROM shardpool_catalog.move WHERE state = 'running'") == []
        assert self.catalog("SELECT * FROM shardpool_catalog.cleanup") == []
        for shard in self.router.shard_map.shards:
            eventually(lambda shard=shard: self.sql(shard, _SESSIONS) == [], f"no sessions of moves on {shard}")
            for leftovers in _STREAMS:
                assert self.sql(shard, leftovers) == []
            assert self.sql(shard, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()") == []
        eventually(lambda: self.sql(min(self.config.shards), _LOCKS) == [], "no advisory locks in the catalog")


_DATABASE = "(SELECT oid FROM pg_database WHERE datname = current_database())"
_SESSIONS = (
    "SELECT state FROM pg_stat_activity WHERE application_name LIKE 'shardpool move%' AND datname = current_database()"
)
_STREAMS = (
    "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()",
    "SELECT pubname FROM pg_publication",
)
_LOCKS = f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND database = {_DATABASE}"


def schema(partition: int) -> str:
    return f"shop_p{partition:04d}"


# -- waiting --------------------------------------------------------------------------------------------------------


def wait_until_blocked(place: Place, shard: str, pid: int) -> None:
    """Wait until a session waits for a lock."""
    query = f"SELECT wait_event_type FROM pg_stat_activity WHERE pid = {pid}"
    eventually(lambda: place.sql(shard, query) == [("Lock",)], f"session {pid} waits for a lock")


class Background:
    """A call in a thread, with its result or error."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, seconds: float = 30.0) -> Any:
        """Return the result, or raise the error."""
        self._thread.join(seconds)
        assert self.done, f"not done within {seconds:.0f} s"
        if self.error is not None:
            raise self.error
        return self.result


class Gates:
    """Points at which moves in this process stop until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._closed: dict[str, threading.Event] = {}
        self._reached: dict[str, threading.Event] = {}
        self._waiting: list[threading.Event] = []
        self.seen: list[str] = []
        monkeypatch.setattr(faults, "fault_point", self._pass)

    def close(self, *names: str) -> None:
        for name in names:
            self._closed[name] = threading.Event()
            self._reached[name] = threading.Event()

    def wait_for(self, name: str) -> None:
        assert self._reached[name].wait(20), f"{name} was not reached, but {self.seen}"

    def open(self, name: str) -> None:
        self._closed[name].set()

    def forget(self, name: str) -> None:
        """Let others pass; who waits there stays."""
        self._waiting.append(self._closed.pop(name))

    def open_all(self) -> None:
        for gate in (*self._closed.values(), *self._waiting):
            gate.set()

    def _pass(self, name: str) -> None:
        self.seen.append(name)
        if (gate := self._closed.get(name)) is not None:
            self._reached[name].set()
            assert gate.wait(60), f"{name} was never opened"


# -- movers in processes of their own -------------------------------------------------------------------------------


class Mover:
    """A process that moves a partition, or carries out a plan to change some, and is killed (SIGKILL) or frozen
    (SIGSTOP) at a point of that."""

    def __init__(
        self,
        config: Config,
        partition: int,
        to: str,
        point: str,
        kill: bool = True,
        mode: Wanted = "auto",
        keep: float = 0.0,
        plan: ChangePlan | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["shardpool.moves", "tests.moves.move_tools"])
        self._process = context.Process(
            target=_move, args=(config, partition, to, point, kill, mode, keep, plan), daemon=True
        )
        self._process.start()
        # One that is frozen would not end with this process, which would wait for it.
        atexit.register(self._process.kill)

    def wait_killed(self) -> None:
        self._process.join(30)
        assert self._process.exitcode == -signal.SIGKILL, f"exit code {self._process.exitcode}"

    def wait_frozen(self) -> None:
        pid = str(self._process.pid)
        command = ["ps", "-o", "stat=", "-p", pid]
        eventually(
            lambda: subprocess.run(command, capture_output=True, text=True).stdout.startswith("T"),
            "the mover is frozen",
        )

    def thaw(self) -> int:
        """Let it go on, and return its exit code: 3 if the move was taken over."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)
        self._process.join(30)
        assert self._process.exitcode is not None
        return self._process.exitcode


def _move(
    config: Config,
    partition: int,
    to: str,
    point: str,
    kill: bool,
    mode: Wanted,
    keep: float,
    plan: ChangePlan | None,
) -> None:
    if kill:
        faults.armed = f"{point}:kill9"
    else:

        def freeze(name: str) -> None:
            if name == point:
                os.kill(os.getpid(), signal.SIGSTOP)

        faults.fault_point = freeze
    from shardpool.errors import MoveTakenOver

    with Router(config, listen=False) as router:
        try:
            if plan is None:
                move_partition(router, partition, to, mode=mode, keep=keep)
            else:
                change_partitions(router, plan, mode=mode)
        except MoveTakenOver:
            os._exit(3)
