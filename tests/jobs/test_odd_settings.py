"""Databases whose settings change how values, names and rows look; and rows that a policy hides from the job's role."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from shardpool import Router, Sharded, read_config
from shardpool.bulk.digest import Digest
from shardpool.errors import JobFailed
from shardpool.jobs import resume_job, run_job
from shardpool.jobs.digest import digests_of
from shardpool.topology.tables import Table
from tests.jobs.anonymise_tools import write_config
from tests.support.backends import databases, plain_connection

DDL = """
CREATE TABLE t (id bigint PRIMARY KEY, i interval, d date, s timestamp, z timestamptz, b bytea, f double precision,
    r real, zs timestamptz[], rg tstzrange, iv interval[], texts text[], nothing text, word text)"""
FILL = r"""
INSERT INTO t SELECT n, n * '-1 day 3:04:05.678'::interval, date '2001-02-03' + n, timestamp '2001-02-03 04:05:06.7',
    timestamptz '2001-07-03 04:05:06.7Z' + n * interval '1 day', decode(md5(n::text), 'hex'), n / 3.0, n / 3.0,
    ARRAY[timestamptz '2001-07-03 04:05Z'], tstzrange('2001-02-03 00:00Z', '2001-02-04 00:00Z'),
    ARRAY[n * '-1 day 3:04'::interval], ARRAY['a', NULL, 'NULL'], NULL, E'\\x41\t' || n
    FROM generate_series(1, 200) n"""
USUAL = (
    "SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; SET bytea_output = 'hex'; "
    "SET extra_float_digits = 1; SET array_nulls = on; SET standard_conforming_strings = on"
)
ODD = (
    {
        "datestyle": "'SQL, DMY'",
        "intervalstyle": "sql_standard",
        "bytea_output": "escape",
        "timezone": "'Asia/Kolkata'",
        "extra_float_digits": "0",
        "quote_all_identifiers": "on",
    },
    {
        "datestyle": "'German, DMY'",
        "intervalstyle": "iso_8601",
        "timezone": "'America/New_York'",
        "extra_float_digits": "-5",
        "array_nulls": "off",
        "default_transaction_isolation": "'serializable'",
        "standard_conforming_strings": "off",
    },
)


def execute(url: str, *statements: str) -> list[str]:
    """Run statements, and return the first column of the last one's rows."""
    connection = plain_connection(url)
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return [row[0] for row in cursor.fetchall()] if cursor.description else []
    finally:
        connection.close()


def rows_of(*places: tuple[str, str]) -> list[str]:
    """Return the rows of (URL, table), all together."""
    return sorted(row for url, table in places for row in execute(url, USUAL, f"SELECT t::text FROM {table} t"))


@pytest.fixture
def urls(server_urls: list[str]) -> Iterator[list[str]]:
    """Six databases: an old one, two shards, one to export to, and two more shards. No two neighbours are alike."""
    with ExitStack() as stack:
        found = [url for _ in range(2) for url in stack.enter_context(databases(server_urls))]
        for number, url in enumerate(found):
            for name, value in ODD[number % 2].items():
                execute(url, f"ALTER DATABASE {make_url(url).database} SET {name} = {value}")
        yield found


def test_settings_change_nothing(urls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, first, second, out, *others = urls
    execute(old, USUAL, DDL, FILL)
    expected = rows_of((old, "t"))
    config = write_config(tmp_path / "cluster.toml", [first, second], "shop", partitions=4)
    Router.initialise(read_config(config))
    run = {"chunk_rows": 50}
    with Router.from_file(config, listen=False) as router:

        def rows(table: str) -> list[str]:
            shards = {"s0": first, "s1": second}
            return rows_of(
                *((shards[it.shard], f"{it.partition.schema}.{table}") for it in router.shard_map.placements)
            )

        job = {"job": "import", "name": "in", "from": {"url": make_url(old).render_as_string()}, "run": run}
        run_job(router, {**job, "tables": {"t": {"key": "id"}}})
        router.refresh()
        assert rows("t") == expected
        to = {"url": make_url(out).render_as_string()}
        run_job(router, {"job": "export", "name": "out", "to": to, "run": run})
        assert rows_of((out, "t")) == expected

        router.create_schema(DDL.replace("TABLE t", "TABLE again"), {"again": Sharded("id")})
        (tmp_path / "same.py").write_text("def same(rows):\n    yield from rows\n")
        monkeypatch.chdir(tmp_path)
        for number, transform in enumerate(({}, {"python": "same.py:same"})):
            load = {"table": "again", "mode": "upsert"}
            job = {"job": "etl", "name": f"{number}", "extract": {"table": "t"}, "load": load, "run": run}
            run_job(router, {**job, "transform": transform} if transform else job)
            assert rows("again") == expected
            router.query("TRUNCATE again")

        monkeypatch.setenv("SECRET", "x" * 40)
        target = write_config(tmp_path / "anon.toml", others, "anon", partitions=4)
        job = {"job": "anonymise", "name": "anonymous", "to": {"config": str(target)}, "secret": {"env": "SECRET"}}
        months = {"rule": "generalise", "to": "month"}
        run_job(
            router, {**job, "undecided": "keep", "skip_tables": ["again"], "tables": {"t": {"z": months}}, "run": run}
        )
        with Router.from_file(target, listen=False) as anonymous:
            assert (
                anonymous.query("SELECT DISTINCT z::text FROM t ORDER BY 1 LIMIT 1").scalar()
                == "2001-07-01 00:00:00+00"
            )
            kept = "SELECT (id, i, d, s, b, f, texts, nothing, word)::text FROM t ORDER BY id"
            assert anonymous.query(kept).all() == router.query(kept).all()


def test_sessions_that_end_when_they_are_idle(
    server_urls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database's snapshot waits for the keyspace's digests, which may take long."""

    def long(router: Router, tables: Mapping[str, Table]) -> dict[str, list[Digest]]:
        router.query("SELECT pg_sleep(0.5)")
        return digests_of(router, tables)

    monkeypatch.setattr("shardpool.jobs.migrate.finish.digests_of", long)
    with databases(server_urls[:1]) as [old], databases(server_urls[1:2]) as shards:
        execute(old, "CREATE TABLE t (id bigint PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 9)")
        execute(old, f"ALTER DATABASE {make_url(old).database} SET idle_in_transaction_session_timeout = '100ms'")
        config = write_config(tmp_path / "cluster.toml", shards, "shop", partitions=4)
        Router.initialise(read_config(config))
        where = {"url": make_url(old).render_as_string()}
        with Router.from_file(config, listen=False) as router:
            job = {"job": "import", "name": "in", "from": where, "tables": {"t": {"key": "id"}}}
            assert run_job(router, job).checks["verified_rows"] == {"t": 9}


def test_rows_that_a_policy_hides(server_urls: list[str], tmp_path: Path) -> None:
    """Both sides would be alike without them: so the job must not read what a policy leaves of a table."""
    role = f"poor_{uuid.uuid4().hex[:8]}"
    with databases(server_urls[:1]) as [old], databases(server_urls[1:2]) as shards:
        name = make_url(old).database
        execute(old, "CREATE TABLE t (id bigint PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 9)")
        execute(old, f"CREATE ROLE {role} LOGIN", f"GRANT CREATE ON DATABASE {name} TO {role}")
        execute(old, f"ALTER TABLE t OWNER TO {role}", f"GRANT CREATE ON SCHEMA public TO {role}")
        execute(old, "CREATE POLICY few ON t USING (id < 5)", "ALTER TABLE t ENABLE ROW LEVEL SECURITY")
        config = write_config(tmp_path / "cluster.toml", shards, "shop", partitions=4)
        Router.initialise(read_config(config))
        url = make_url(old).set(username=role).render_as_string()
        job = {"job": "import", "name": "in", "from": {"url": url}, "tables": {"t": {"key": "id"}}}
        with Router.from_file(config, listen=False) as router:
            execute(old, "ALTER TABLE t FORCE ROW LEVEL SECURITY")
            assert len(execute(url, "SELECT id FROM t")) == 4
            with pytest.raises(JobFailed, match="row-level security policy"):
                run_job(router, job)
            execute(old, "ALTER TABLE t NO FORCE ROW LEVEL SECURITY")
            assert resume_job(router, "in").checks["verified_rows"] == {"t": 9}
        execute(old, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")
