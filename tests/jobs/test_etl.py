"""Extract, transform, load: what is read once, what a function makes of it, where it goes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from shardpool import Router
from shardpool.errors import ConfigError, JobFailed, JobRefused, UnknownTable
from shardpool.jobs import plan_job, resume_job, run_job
from tests.jobs.job_tools import all_rows
from tests.support.backends import databases, plain_connection

FUNCTIONS = '''
from decimal import Decimal

def double(rows):
    """Twice the amount, under another key; items of kind c are dropped, those of kind b come twice."""
    for row in rows:
        if row["kind"] != "c":
            yield {**row, "id": row["id"] + 1_000_000, "amount": row["amount"] * 2}
        if row["kind"] == "b":
            yield {**row, "id": row["id"] + 2_000_000, "amount": Decimal(0)}

def picky(rows):
    for row in rows:
        if row["id"] in (100, 200):
            raise ValueError("not this one")
        yield row

def arrow(table):
    import pyarrow.compute as pc
    return table.filter(pc.equal(table["kind"], "a")).select(["id", "kind", "amount"])
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def no_jobs(router: Router) -> Iterator[None]:
    router.copy_into("to_kind", [("a", "a"), ("b", "b"), ("c", "c")])
    yield
    with router.catalog.begin() as connection:
        connection.execute(text("DELETE FROM shardpool_catalog.job"))


@pytest.fixture
def database(server_urls: list[str]) -> Iterator[str]:
    with databases(server_urls[2:3]) as [url]:
        on(url, "CREATE TABLE item (id bigint PRIMARY KEY, kind text, note text, amount numeric(12,2))")
        yield url


def on(url: str, statement: str) -> list[tuple[Any, ...]]:
    connection = plain_connection(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def spec(extract: dict[str, Any], load: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"job": "etl", "name": "flow", "extract": extract, "load": load, "run": {"chunk_rows": 50}, **more}


def doubled(router: Router) -> list[tuple[Any, ...]]:
    found = [
        (key + 1_000_000, kind, note, amount * 2) for key, kind, note, amount in all_rows(router, "item") if kind != "c"
    ]
    found += [
        (key + 2_000_000, kind, note, Decimal(0)) for key, kind, note, _ in all_rows(router, "item") if kind == "b"
    ]
    return sorted(found)


def test_a_function_over_rows(router: Router, folder: Path) -> None:
    job = spec({"table": "item"}, {"table": "to_item"}, transform={"python": "functions.py:double"})
    assert run_job(router, job).progress.chunks > 8
    assert all_rows(router, "to_item") == doubled(router)


def test_kill_9_and_resume(router: Router, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = spec({"table": "item"}, {"table": "to_item"}, transform={"python": "functions.py:double"})
    job["run"] |= {"executor": "processes", "workers": 2}
    monkeypatch.setenv("SHARDPOOL_FAULT", "chunk-5-decided:kill9")
    with pytest.raises(JobFailed):
        run_job(router, job)
    monkeypatch.delenv("SHARDPOOL_FAULT")
    (folder / "functions.py").write_text(FUNCTIONS + "\n# another version\n")
    with pytest.raises(JobRefused, match="cannot be resumed"):
        resume_job(router, "flow")
    (folder / "functions.py").write_text(FUNCTIONS)
    resume_job(router, "flow")
    assert all_rows(router, "to_item") == doubled(router)


def test_a_function_over_arrow_tables(router: Router, folder: Path) -> None:
    pytest.importorskip("pyarrow")
    job = spec({"table": "item"}, {"table": "to_item"}, transform={"arrow": "functions.py:arrow"})
    run_job(router, job)
    assert [(row[0], row[3]) for row in all_rows(router, "to_item")] == [
        (key, amount) for key, kind, _, amount in all_rows(router, "item") if kind == "a"
    ]


def test_a_function_that_fails_for_a_row(router: Router, folder: Path) -> None:
    job = spec({"table": "item"}, {"table": "to_item"}, transform={"python": "functions.py:picky"})
    job["bad_rows"] = {"max": 2, "directory": "rejects"}
    assert run_job(router, job).progress.rejected == 2
    told = "".join(path.read_text() for path in (folder / "rejects").iterdir())
    assert told.count("ValueError: not this one") == 2
    assert "(id)=(100)" in told
    assert len(all_rows(router, "to_item")) == 698


def test_upsert(router: Router, folder: Path) -> None:
    job = spec({"table": "item"}, {"table": "to_item", "mode": "upsert"})
    for _ in range(2):
        run_job(router, job)
        assert all_rows(router, "to_item") == all_rows(router, "item")
        router.execute(7, "UPDATE to_item SET note = 'other' WHERE id = 7")


def test_incremental(router: Router, folder: Path) -> None:
    job = spec({"table": "item", "since": "id"}, {"table": "to_item", "mode": "insert"})
    assert run_job(router, job).progress.rows == 700
    router.copy_into("item", [(n, "a", "new", 1) for n in range(9000, 9010)])
    try:
        assert run_job(router, job).progress.rows == 10
        assert run_job(router, job).progress.rows == 0
        assert all_rows(router, "to_item") == all_rows(router, "item")
        router.copy_into("item", [(9100, "a", "newer", 1)])
        assert plan_job(router, job)["window"] == ["9009", "9100"]
    finally:
        for key in (*range(9000, 9010), 9100):
            router.execute(key, "DELETE FROM item WHERE id = :k", {"k": key})


def test_an_incremental_aggregate(router: Router, folder: Path) -> None:
    """The window is that of all partitions, not of one."""
    query = "SELECT max(id) AS id, kind FROM item GROUP BY kind"
    job = spec({"query": query, "since": "id"}, {"table": "to_item", "mode": "upsert"})
    everything = sorted(tuple(row) for row in router.query(query))
    assert run_job(router, job).progress.rows == len(everything) == 3
    assert sorted((row[0], row[1]) for row in all_rows(router, "to_item")) == everything
    assert run_job(router, job).progress.rows == 0
    router.copy_into("item", [(5_000_000, "b", None, None)])
    try:
        assert run_job(router, job).progress.rows == 1
    finally:
        router.execute(5_000_000, "DELETE FROM item WHERE id = 5000000")


def test_a_query_with_a_join(router: Router, folder: Path) -> None:
    query = "SELECT p.id, p.number, i.note || '%' AS note FROM part p JOIN item i ON i.id = p.id WHERE i.kind <> 'a'"
    run_job(router, spec({"query": query, "key": ["id", "number"]}, {"directory": "out"}))
    texts = [path.read_text() for path in (folder / "out" / "rows").iterdir()]
    assert len(texts) > 8
    rows = [row for it in texts for row in csv.DictReader(io.StringIO(it, newline=""))]
    expected = [(str(a), str(b), c or "") for a, b, c in router.query(query)]
    assert sorted((it["id"], it["number"], it["note"]) for it in rows) == sorted(expected)


def test_a_query_of_reference_tables_runs_once(router: Router, folder: Path) -> None:
    run_job(router, spec({"query": "SELECT * FROM kind WHERE code <> 'a'"}, {"directory": "out", "format": "parquet"}))
    parquet = pytest.importorskip("pyarrow.parquet")
    assert sorted(parquet.read_table(folder / "out" / "rows").to_pydict()["code"]) == ["b", "c"]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT kind, count(*) AS n, bool_or(amount > 100) AS many FROM item GROUP BY kind",
        "SELECT * FROM item ORDER BY amount DESC, id LIMIT 10",
        "SELECT DISTINCT kind, CASE kind WHEN 'a' THEN E'tab\\t\\\\N' END AS odd, kind::char(3) AS padded FROM item",
        "SELECT a.id FROM item a JOIN item b ON a.note = b.note",
        "SELECT id, row_number() OVER (ORDER BY id) FROM item",
        "SELECT sum(amount) AS everything FROM item WHERE false",
        "SELECT DISTINCT kind || '100%' || ':x %s' AS odd, timestamp '2024-01-01 10:30' AS at FROM item",
    ],
)
def test_a_query_over_all_partitions_at_once(router: Router, folder: Path, query: str) -> None:
    """It is asked as a whole, and written in one chunk."""
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run_job(router, spec({"query": query}, {"directory": "out", "format": "parquet"})).progress.chunks == 1
    found = [tuple(row.values()) for row in parquet.read_table(folder / "out" / "rows").to_pylist()]
    expected = [tuple(row) for row in router.query(query)]
    assert sorted(map(str, found)) == sorted(str(tuple(_plain(it) for it in row)) for row in expected)


def _plain(value: Any) -> Any:
    """A value as Parquet has it: numbers without a fixed scale are text there."""
    return str(value) if isinstance(value, Decimal) and value.as_tuple().exponent != -2 else value


def test_an_aggregate_goes_into_a_table_each_time_anew(router: Router, folder: Path) -> None:
    query = (
        "SELECT max(id) AS id, kind, min(note) AS note, sum(amount)::numeric(12,2) AS amount FROM item GROUP BY kind"
    )
    job = spec({"query": query}, {"table": "to_item", "mode": "upsert"}, transform={"python": "functions.py:double"})
    assert plan_job(router, job)["samples"][0]["rows"] != []
    run_job(router, job)
    router.execute(0, "UPDATE item SET amount = amount + 1 WHERE id = 0")
    try:
        run_job(router, job)
        [total] = {row[3] for row in router.query("SELECT * FROM to_item WHERE kind = 'a'")}
        assert total == 2 * router.query("SELECT sum(amount) FROM item WHERE kind = 'a'").scalar_one()
    finally:
        router.execute(0, "UPDATE item SET amount = amount - 1 WHERE id = 0")


def test_a_whole_query_is_bounded_and_not_cut(router: Router, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = {"query": "SELECT DISTINCT id, note FROM item JOIN kind ON item.kind <> kind.code ORDER BY id"}
    with pytest.raises(JobRefused, match="cannot cut a query"):
        run_job(router, spec({**query, "key": ["id"]}, {"directory": "out"}))
    small = replace(router.config, query=replace(router.config.query, max_gather_bytes=2000))
    monkeypatch.setattr(router, "config", small)
    with pytest.raises(JobFailed, match=r"more than \[query\] max_gather_bytes"):
        run_job(router, spec(query, {"directory": "out"}))


def test_from_and_to_another_database(router: Router, folder: Path, database: str) -> None:
    run_job(router, spec({"table": "item"}, {"table": "item", "url": database}))
    assert on(database, "SELECT * FROM item ORDER BY id") == all_rows(router, "item")
    on(database, "UPDATE item SET amount = amount + 1 WHERE id % 2 = 0")
    back = spec({"table": "item", "url": database, "key": ["id"]}, {"table": "to_item", "mode": "upsert"})
    run_job(router, back)
    assert all_rows(router, "to_item") == on(database, "SELECT * FROM item ORDER BY id")


def test_a_key_that_is_null_somewhere_is_refused(router: Router, folder: Path) -> None:
    with pytest.raises(JobFailed, match="NULL in some rows"):
        run_job(router, spec({"query": "SELECT * FROM item", "key": ["note"]}, {"directory": "out"}))


@pytest.mark.parametrize("key", ["('a' || lpad(id::text, 3, '0'))::char(4)", "id::bit(12)"])
def test_chunks_are_cut_by_whole_keys(router: Router, folder: Path, database: str, key: str) -> None:
    """In a query, a char(4) is called character, which as a type would be one: all keys would lie beyond each cut."""
    on(database, f"CREATE TABLE coded AS SELECT id, {key} AS code FROM generate_series(1, 200) id")
    extract = {"url": database, "query": "SELECT * FROM coded", "key": ["code"]}
    run_job(router, spec(extract, {"directory": "out"}, run={"chunk_rows": 20}))
    sizes = [len(path.read_text().splitlines()) - 1 for path in (folder / "out" / "rows").iterdir()]
    assert sum(sizes) == 200 and max(sizes) <= 40


def test_what_does_not_fit_is_refused(router: Router, folder: Path) -> None:
    with pytest.raises(UnknownTable):
        plan_job(router, spec({"table": "nothing"}, {"directory": "out"}))
    with pytest.raises(UnknownTable):
        plan_job(router, spec({"table": "item"}, {"table": "nothing"}))
    with pytest.raises(JobRefused, match="primary key"):
        run_job(router, spec({"table": "loose"}, {"table": "to_loose", "mode": "upsert"}))
    with pytest.raises(JobRefused, match="no function nothing"):
        plan_job(router, spec({"table": "item"}, {"table": "to_item"}, transform={"python": "functions.py:nothing"}))
    with pytest.raises(ConfigError, match="mode"):
        plan_job(router, spec({"table": "item"}, {"table": "to_item", "mode": "merge"}))


def test_a_dry_run_shows_what_the_function_makes(router: Router, folder: Path) -> None:
    job = spec({"table": "item"}, {"table": "to_item"}, transform={"python": "functions.py:double"})
    [sample] = plan_job(router, job)["samples"]
    assert sample["columns"] == ("id", "kind", "note", "amount")
    assert all(int(row[0]) >= 1_000_000 for row in sample["rows"])
    assert all_rows(router, "to_item") == []
