"""The way out: files, and one PostgreSQL."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from shardpool import Router
from shardpool.errors import JobFailed, JobRefused
from shardpool.jobs import resume_job, run_job
from tests.jobs.job_tools import all_rows
from tests.support.backends import databases, plain_connection

SPEC: dict[str, Any] = {"job": "export", "name": "out", "tables": ["kind", "item", "part"], "run": {"chunk_rows": 100}}


@pytest.fixture(autouse=True)
def no_jobs(router: Router) -> Iterator[None]:
    yield
    with router.catalog.begin() as connection:
        connection.execute(text("DELETE FROM shardpool_catalog.job"))


@pytest.fixture
def database(server_urls: list[str]) -> Iterator[str]:
    with databases(server_urls[2:3]) as [url]:
        yield url


def rows_of(url: str, table: str) -> list[tuple[Any, ...]]:
    connection = plain_connection(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {table} ORDER BY 1, 2")
            return list(cursor.fetchall())
    finally:
        connection.close()


def test_one_database(router: Router, database: str) -> None:
    result = run_job(router, {**SPEC, "to": {"url": database}})
    assert result.checks["verified_rows"] == {"kind": 3, "item": 700, "part": 2100}
    for table in ("kind", "item", "part"):
        assert rows_of(database, table) == all_rows(router, table)
    assert left_over(database) == []
    with pytest.raises(JobRefused, match="has rows already"):
        run_job(router, {**SPEC, "to": {"url": database}})


def left_over(url: str) -> list[str]:
    """What jobs keep in a database."""
    found = ask(url, "SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace('shardpool_jobs')")
    return [name for (name,) in found] + [
        str(it) for it in ask(url, "SELECT to_regnamespace('shardpool_jobs')") if it[0]
    ]


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    connection = plain_connection(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


@pytest.mark.parametrize("point", ["written", "committed"])
def test_kill_9_into_a_database(router: Router, database: str, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {**SPEC, "to": {"url": database}, "run": {"chunk_rows": 100, "executor": "processes", "workers": 2}}
    monkeypatch.setenv("SHARDPOOL_FAULT", f"chunk-9-{point}:kill9")
    with pytest.raises(JobFailed):
        run_job(router, spec)
    monkeypatch.delenv("SHARDPOOL_FAULT")
    assert left_over(database)
    assert resume_job(router, "out").state == "done"
    for table in ("kind", "item", "part"):
        assert rows_of(database, table) == all_rows(router, table)
    assert left_over(database) == []


def test_a_reference_table_that_differs_is_found_out(router: Router, database: str) -> None:
    shard = max(router.shard_map.shards)
    with router.engines.borrow(shard) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE shop.kind SET name = 'other' WHERE code = 'a'")
        connection.commit()
    try:
        with pytest.raises(JobFailed, match="copies of reference table kind"):
            run_job(router, {**SPEC, "to": {"url": database}})
    finally:
        with router.engines.borrow(shard) as connection, connection.cursor() as cursor:
            cursor.execute("UPDATE shop.kind SET name = E'tab\\there' WHERE code = 'a'")
            connection.commit()


@pytest.mark.parametrize("kill", ["", "chunk-9-written:kill9"])
def test_csv(router: Router, tmp_path: Path, kill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {**SPEC, "to": {"directory": str(tmp_path / "out")}}
    if kill:
        spec["run"] = {"chunk_rows": 100, "executor": "processes", "workers": 2}
        monkeypatch.setenv("SHARDPOOL_FAULT", kill)
        with pytest.raises(JobFailed):
            run_job(router, spec)
        monkeypatch.delenv("SHARDPOOL_FAULT")
        resume_job(router, spec)
    else:
        run_job(router, spec)
    texts = [path.read_text() for path in (tmp_path / "out" / "item").iterdir()]
    rows = [row for it in texts for row in csv.DictReader(io.StringIO(it, newline=""))]
    expected = [(str(key), kind, note or "", str(amount)) for key, kind, note, amount in all_rows(router, "item")]
    assert sorted((it["id"], it["kind"], it["note"], it["amount"]) for it in rows) == sorted(expected)


def noted_password(shard: str) -> str:
    """Notes in which process a password was asked for; the servers of the tests want none."""
    with Path(os.environ["NOTED_PASSWORDS"]).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return "secret"


def test_worker_processes_know_passwords(router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTED_PASSWORDS", str(tmp_path / "noted"))
    run = {"chunk_rows": 100, "executor": "processes", "workers": 2}
    spec = {**SPEC, "to": {"directory": str(tmp_path / "out")}, "run": run}
    with Router(router.config, password=noted_password, listen=False) as asking:
        assert "secret" not in repr(asking.config) and "noted_password" not in repr(asking.config)
        run_job(asking, spec)
    assert len(set((tmp_path / "noted").read_text().split()) - {str(os.getpid())}) == 2
    with (
        Router(router.config, password=lambda shard: "secret", listen=False) as asking,
        pytest.raises(JobRefused, match="must stand in a module, under its name; or take executor = 'threads'"),
    ):
        run_job(asking, {**spec, "name": "unsent", "to": {"directory": str(tmp_path / "other")}})


def test_parquet(router: Router, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run_job(router, {**SPEC, "to": {"directory": str(tmp_path / "out"), "format": "parquet"}})
    for table in ("kind", "item", "part"):
        found = parquet.read_table(tmp_path / "out" / table)
        assert sorted(tuple(row.values()) for row in found.to_pylist()) == sorted(
            all_rows(router, table), key=lambda it: it[:2]
        )
    assert (
        str(parquet.read_schema(next((tmp_path / "out" / "item").iterdir())).field("amount").type)
        == "decimal128(12, 2)"
    )


def test_types_in_parquet(router: Router) -> None:
    pytest.importorskip("pyarrow")
    from shardpool.bulk.arrow import to_arrow
    from shardpool.topology.tables import Column

    types = ["smallint", "boolean", "date", "bytea", "timestamp with time zone", "timestamp without time zone", "uuid"]
    columns = [Column(f"c{n}", it) for n, it in enumerate([*types, "double precision", "numeric(5,2)", "text[]"])]
    select = "SELECT 7::smallint, true, '2024-02-29'::date, '\\x00ff'::bytea, '2024-02-29 12:00:00.5+02'::timestamptz, "
    select += "'2024-02-29 12:00:00'::timestamp, '00000000-0000-4000-8000-000000000001'::uuid, 0.1::float8, "
    select += "-1.50::numeric(5,2), ARRAY['a', NULL]"
    data = io.BytesIO()
    with router.engines.borrow("s0") as connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY ({select}) TO STDOUT", data)
    [row] = to_arrow(columns, [data.getvalue()[:-1], rb"\t".join([rb"\N"] * 10).replace(rb"\t", b"\t")]).to_pylist()[:1]
    assert [str(value) for value in row.values()] == [
        *("7", "True", "2024-02-29", "b'\\x00\\xff'", "2024-02-29 10:00:00.500000+00:00", "2024-02-29 12:00:00"),
        *("00000000-0000-4000-8000-000000000001", "0.1", "-1.50", "{a,NULL}"),
    ]
