"""The database that an export fills: what is made before the rows, what after them, and what is left there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from shardpool import Router, Sharded, read_config
from shardpool.bulk.chunk import Chunk, Rows, Ticket
from shardpool.bulk.database_sink import DatabaseSink
from shardpool.bulk.database_source import database_config
from shardpool.config import parse_endpoint
from shardpool.ddl.features import read_features
from shardpool.engines import Engines
from shardpool.errors import ChunkDone, JobFailed, JobRefused, LoadError, StalePlacement
from shardpool.jobs import cancel_job, resume_job, run_job
from shardpool.jobs.copy_schema import own_log
from tests.jobs.anonymise_tools import write_config
from tests.support.backends import databases, plain_connection

SCHEMA = """
CREATE TABLE country (code char(2) PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE customers (
    id bigint PRIMARY KEY, country char(2) REFERENCES country, name text, changed int DEFAULT 0, UNIQUE (id, name)
);
CREATE TABLE orders (
    customer bigint REFERENCES customers ON DELETE CASCADE, number int CHECK (number > 0), total numeric(9,2),
    at timestamptz, PRIMARY KEY (customer, number)
);
CREATE INDEX by_total ON orders (total DESC) INCLUDE (at) WHERE total > 0;
CREATE INDEX gone ON orders (at);
DROP INDEX gone;
CREATE FUNCTION count_changes() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN NEW.changed = OLD.changed + 1; RETURN NEW; END';
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.total = 0; RETURN NEW; END';
CREATE TRIGGER changes BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION count_changes();
CREATE VIEW names AS SELECT id, name FROM customers;
"""
#: Nothing may be loaded with it on.
STAMPED = "CREATE TRIGGER stamped BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION stamp()"
#: These hang on a key: it cannot be taken off and put on again.
HANGING = """
CREATE VIEW grouped AS SELECT c.id, c.name, count(*) FROM customers c JOIN orders o ON o.customer = c.id GROUP BY c.id;
COMMENT ON CONSTRAINT orders_pkey ON orders IS 'one number each';
"""
TABLES: dict[str, dict[str, object]] = {
    "country": {"reference": True},
    "customers": {"key": "id"},
    "orders": {"key": "customer"},
}
ROWS = 400


@pytest.fixture
def config(server_urls: list[str], tmp_path: Path) -> Iterator[Path]:
    with databases(server_urls[:2]) as urls:
        path = write_config(tmp_path / "cluster.toml", urls, "shop", partitions=4)
        text = path.read_text()
        for name, kind in TABLES.items():
            text += f"[tables.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in kind.items())
        path.write_text(text)
        Router.initialise(read_config(path))
        yield path


@pytest.fixture
def router(config: Path) -> Iterator[Router]:
    with Router.from_file(config, listen=False) as router:
        router.create_schema(SCHEMA)
        router.copy_into("country", [("de", "Germany"), ("fr", "France")])
        router.copy_into("customers", [(n, "de" if n % 2 else "fr", f"n{n}", 0) for n in range(ROWS)])
        stamped = "2024-01-01 00:00:00+00"
        router.copy_into("orders", [(n, k, n / 4, stamped) for n in range(ROWS) for k in (1, 2)])
        router.create_schema(STAMPED)
        yield router


@pytest.fixture
def database(server_urls: list[str]) -> Iterator[str]:
    with databases(server_urls[2:3]) as [url]:
        yield url


def spec(url: str, **more: Any) -> dict[str, Any]:
    return {"job": "export", "name": "out", "to": {"url": url}, "run": {"chunk_rows": 60, "workers": 2}, **more}


def ask(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements, and return the last one's rows."""
    connection = plain_connection(url)
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def kept(url: str) -> list[str]:
    """The tables that jobs keep in a database."""
    found = ask(url, "SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace('shardpool_jobs')")
    return [name for (name,) in found if not name.endswith("pkey")]


def is_clean(url: str) -> bool:
    return ask(url, "SELECT to_regnamespace('shardpool_jobs') IS NULL") == [(True,)]


def features(url: str) -> set[Any]:
    connection = plain_connection(url)
    try:
        with connection.cursor() as cursor:
            return set(read_features(cursor, "public"))
    finally:
        connection.close()


def check_complete(router: Router, url: str, server_urls: list[str]) -> None:
    """The database has the rows, and is as if the statements had run there in order; nothing else is left."""
    assert ask(url, "SELECT count(*), sum(total) FROM orders") == [(2 * ROWS, sum(2 * n / 4 for n in range(ROWS)))]
    with databases(server_urls[2:3]) as [plain]:
        ask(plain, *[it.statement.text for it in own_log(router)])
        assert features(url) == features(plain)
    assert is_clean(url)


@pytest.mark.parametrize("hanging", ["", HANGING])
def test_the_same_tables(router: Router, database: str, server_urls: list[str], hanging: str) -> None:
    if hanging:
        router.create_schema(hanging)
    assert run_job(router, spec(database)).checks["verified_rows"]["orders"] == 2 * ROWS
    check_complete(router, database, server_urls)


def killed(config: Path, folder: Path, document: dict[str, Any], fault: str, resume: bool) -> int:
    """Run a job in a process of its own, which dies at *fault*; return how it ended."""
    path = folder / "killed.json"
    path.write_text(json.dumps(document))
    code = (
        "import json, sys; from shardpool import Router; from shardpool.jobs import run_job, resume_job\n"
        f"with Router.from_file({str(config)!r}, listen=False) as router:\n"
        f"    (resume_job if sys.argv[1:] else run_job)(router, json.load(open({str(path)!r})))"
    )
    command = [sys.executable, "-c", code, *(["resume"] if resume else [])]
    environment = {**os.environ, "SHARDPOOL_FAULT": f"{fault}:kill9"}
    return subprocess.run(command, env=environment, timeout=120, check=False, cwd=Path.cwd()).returncode


def test_kill_9_at_what_comes_after_the_rows(
    router: Router, config: Path, database: str, server_urls: list[str], tmp_path: Path
) -> None:
    for number in (0, 3):
        assert killed(config, tmp_path, spec(database), f"built-{number}", bool(number)) == -9
        assert sorted(kept(database)) == ["later", "ledger"]
    # What is refused is told; the rows are there, and not copied again.
    ask(database, "CREATE INDEX by_total ON orders (number)")
    with pytest.raises(JobFailed, match=r"the rows are there, but 'CREATE INDEX by_total.* is refused"):
        resume_job(router, "out")
    ask(database, "DROP INDEX by_total")
    assert resume_job(router, "out").state == "done"
    check_complete(router, database, server_urls)


def test_killed_when_all_is_done(
    router: Router, config: Path, database: str, server_urls: list[str], tmp_path: Path
) -> None:
    assert killed(config, tmp_path, spec(database), "built-None", False) == -9
    assert kept(database) == ["ledger"]
    assert resume_job(router, "out").state == "done"
    check_complete(router, database, server_urls)


def test_a_cancelled_export_leaves_word_of_what_is_missing(
    router: Router, config: Path, database: str, server_urls: list[str], tmp_path: Path
) -> None:
    assert killed(config, tmp_path, spec(database), "chunk-3-committed", False) == -9
    cancel_job(router, "out")
    assert kept(database) == ["later"]
    ask(database, "TRUNCATE country, customers, orders")
    run_job(router, spec(database))
    check_complete(router, database, server_urls)


def test_a_parent_that_stays_behind(router: Router, database: str) -> None:
    with pytest.raises(JobRefused, match="orders refers to customers, which is not among the tables"):
        run_job(router, spec(database, tables=["orders"]))
    assert ask(database, "SELECT to_regclass('orders')") == [(None,)]
    assert is_clean(database)


def test_what_the_database_refuses_is_told(router: Router, database: str) -> None:
    ask(database, "CREATE VIEW names AS SELECT 1")
    with pytest.raises(
        JobRefused, match='the database refuses the keyspace\'s tables: relation "names" already exists'
    ):
        run_job(router, spec(database))


def test_a_role_that_may_not_create(router: Router, database: str) -> None:
    role = f"weak_{uuid.uuid4().hex[:8]}"
    ask(database, f"CREATE ROLE {role} LOGIN")
    try:
        weak = make_url(database).set(username=role).render_as_string()
        with pytest.raises(LoadError, match="'database': permission denied for database"):
            run_job(router, spec(weak))
    finally:
        ask(database, f"DROP ROLE {role}")


def test_other_types_take_the_rows_as_text(router: Router, database: str) -> None:
    """Of the same size in the binary format: it would be read as another number."""
    router.create_schema("CREATE TABLE odd (k bigint PRIMARY KEY, n int)", {"odd": Sharded("k")})
    router.copy_into("odd", [(k, k * 3) for k in range(50)])
    ask(database, "CREATE TABLE odd (k bigint PRIMARY KEY, n real)")
    run_job(router, spec(database, tables=["odd"]))
    assert ask(database, "SELECT n FROM odd WHERE k = 7") == [(21.0,)]


def test_a_bad_row_is_found_among_binary_ones(router: Router, database: str, tmp_path: Path) -> None:
    columns = "code char(2) PRIMARY KEY, name text CHECK (name <> 'France')"
    ask(database, f"CREATE TABLE country ({columns})")
    with pytest.raises(JobFailed, match=r"country \(code\)=\(fr\)"):
        run_job(router, spec(database, tables=["country"]))
    cancel_job(router, "out")
    assert is_clean(database)


def sink_of(url: str) -> tuple[Engines, DatabaseSink]:
    engines = Engines(database_config(parse_endpoint(url, "test", "to", None), "public", "UTC", 4))
    return engines, DatabaseSink(engines, "public")


def test_a_chunk_after_its_job(database: str) -> None:
    """Of a process that was thought dead: it writes nothing, whether others keep the ledger or nobody."""
    ask(database, "CREATE TABLE t (k bigint)")
    engines, sink = sink_of(database)
    try:
        job, other = uuid.uuid4(), uuid.uuid4()
        for each in (job, other):
            sink.prepare(each)
        rows = [Rows("t", ("k",), [b"1"], str)]

        def ticket(of: uuid.UUID) -> Ticket:
            return Ticket(of, Chunk(0, "t", "t", 0, None))

        assert sink.write(ticket(job), rows, []).rows == 1
        assert list(sink.done(job)) == [0]
        sink.forget(job)
        assert kept(database) == ["ledger"]
        with pytest.raises(ChunkDone):
            sink.write(ticket(job), rows, [])
        assert sink.write(ticket(other), rows, []).rows == 1
        sink.forget(other)
        assert is_clean(database)
        sink.forget(other)
        with pytest.raises(StalePlacement):
            sink.write(ticket(other), rows, [])
        assert ask(database, "SELECT count(*) FROM t") == [(2,)]
    finally:
        engines.close()
