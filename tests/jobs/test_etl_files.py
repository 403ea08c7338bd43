"""Files as what is extracted; what is replaced; functions over data frames."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from shardpool import Router
from shardpool.bulk import file_formats
from shardpool.errors import JobFailed, JobRefused
from shardpool.jobs import plan_job, resume_job, run_job
from tests.jobs.job_tools import all_rows
from tests.support.backends import databases, plain_connection

ROWS = [(n, f'say "{n}",\n{"ä" * (n % 5)}\tx\\' if n % 3 else "", None if n % 7 == 0 else n / 4) for n in range(500)]
SPEC: dict[str, Any] = {
    "job": "etl",
    "name": "files",
    "load": {"table": "to_item"},
    "run": {"chunk_rows": 30, "workers": 2},
}


@pytest.fixture
def folder(router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    with router.catalog.begin() as connection:
        connection.execute(text("DELETE FROM shardpool_catalog.job"))
    yield tmp_path
    with router.catalog.begin() as connection:
        connection.execute(text("DELETE FROM shardpool_catalog.job"))


def write(path: Path, rows: list[Any]) -> None:
    """Write rows of id, note and amount as the file's name says."""
    names = ("id", "note", "amount")
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        columns = {name: [row[at] for row in rows] for at, name in enumerate(names)}
        pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=40)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    else:
        lines = ["id,note,amount\r\n"]
        for number, note, amount in rows:
            quoted = '"' + note.replace('"', '""') + '"'
            lines.append(f"{number},{quoted},{'' if amount is None else amount}\r\n")
        data = "".join(lines).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def loaded(router: Router) -> list[tuple[Any, ...]]:
    found = router.query("SELECT id, note, amount::float8 FROM to_item ORDER BY id")
    return [tuple(row) for row in found]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".parquet"])
def test_rows_arrive_as_they_are(router: Router, folder: Path, suffix: str) -> None:
    write(folder / f"a{suffix}", ROWS[:350])
    write(folder / f"b{suffix}", ROWS[350:])
    result = run_job(router, {**SPEC, "extract": {"files": [f"a*{suffix}", f"{folder}/b*{suffix}"]}})
    assert result.progress.rows == len(ROWS)
    assert result.progress.chunks == (2 if suffix == ".csv.gz" else result.progress.chunks) >= 2
    assert loaded(router) == ROWS


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_any_cut_is_between_rows(folder: Path, suffix: str) -> None:
    write(folder / f"a{suffix}", ROWS)
    reader = file_formats.reader_of(folder / f"a{suffix}")
    whole = [row for _, row in reader.rows(None, None)]
    assert len(whole) == len(ROWS)
    for rows in (17, 499, 1000):
        cuts = [None, *reader.cuts(rows), None]
        parts = [row for after, upto in itertools.pairwise(cuts) for _, row in reader.rows(after, upto)]
        assert parts == whole


def test_kill_9_and_resume(router: Router, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "a.csv"
    write(path, ROWS)
    spec = {**SPEC, "extract": {"files": ["a.csv"]}, "run": {**SPEC["run"], "executor": "processes"}}
    monkeypatch.setenv("SHARDPOOL_FAULT", "chunk-5-decided:kill9")
    with pytest.raises(JobFailed):
        run_job(router, spec)
    monkeypatch.delenv("SHARDPOOL_FAULT")
    before, written = path.read_bytes(), path.stat().st_mtime_ns
    path.write_bytes(before + b'900,"new",1\r\n')
    with pytest.raises(JobRefused, match="have changed since"):
        resume_job(router, spec)
    path.write_bytes(before)
    os.utime(path, ns=(written, written))
    assert resume_job(router, spec).state == "done"
    assert loaded(router) == ROWS


def test_bad_rows_are_told_by_their_place(router: Router, folder: Path) -> None:
    write(folder / "a.csv", ROWS[:40])
    with (folder / "a.csv").open("ab") as file:
        file.write(b"701,too,many,fields\r\n" + b"702,\xff,1\r\n" + b"xyz,no number,1\r\n" + b'703,"open')
    (folder / "b.csv").write_bytes(b"id,note,amount\n800,fine,1\n")
    extract = {"files": ["*.csv"]}
    with pytest.raises(JobFailed):
        run_job(router, {**SPEC, "extract": extract})
    assert loaded(router) == [] or len(loaded(router)) < 41
    with router.catalog.begin() as connection:
        connection.execute(text("DELETE FROM shardpool_catalog.job"))
    router.query("DELETE FROM to_item")
    result = run_job(router, {**SPEC, "extract": extract, "bad_rows": {"max": 4, "directory": "bad"}})
    assert (result.progress.rows, result.progress.rejected) == (41, 4)
    told = [json.loads(line) for path in (folder / "bad").iterdir() for line in path.read_text().splitlines()]
    assert all("a.csv, byte " in it["source"] for it in told)
    assert {it["reason"].split(":")[0] for it in told} == {"4 fields, expected 3", "not CSV in UTF-8", "id"} or len(
        told
    ) == 4


def test_json_that_differs_is_told(router: Router, folder: Path) -> None:
    lines = ['{"id": 1, "note": null}', '{"id": 2}', "[3]", '{"id": 4, "other": 1}', '{"id": 5, "note": "x"', ""]
    (folder / "a.jsonl").write_text("\n".join(lines))
    result = run_job(router, {**SPEC, "extract": {"files": ["a.jsonl"]}, "bad_rows": {"max": 3, "directory": "bad"}})
    assert [row[0] for row in loaded(router)] == [1, 2]
    assert result.progress.rejected == 3


def test_a_function_gets_values(router: Router, folder: Path) -> None:
    (folder / "f.py").write_text(
        "def twice(rows):\n"
        "    for row in rows:\n"
        "        yield {'id': row['id'] * 2, 'amount': row['amount'], 'note': str(row['tags'])}\n"
    )
    (folder / "a.jsonl").write_text('{"id": 1, "amount": 0.10, "tags": null}\n{"id": 2, "amount": 3, "tags": ["a"]}\n')
    run_job(router, {**SPEC, "extract": {"files": ["a.jsonl"]}, "transform": {"python": "f.py:twice"}})
    assert loaded(router) == [(2, "None", 0.1), (4, "['a']", 3.0)]


def test_a_function_over_data_frames(router: Router, folder: Path) -> None:
    (folder / "f.py").write_text(
        "import polars as pl\n"
        "def big(frame):\n"
        "    return frame.filter(pl.col('amount') > 100).select('id', 'amount', pl.lit('big').alias('note'))\n"
    )
    run_job(router, {**SPEC, "extract": {"table": "item", "key": ["id"]}, "transform": {"polars": "f.py:big"}})
    expected = [(row[0], "big", float(row[3])) for row in all_rows(router, "item") if row[3] > 100]
    assert expected
    assert loaded(router) == expected


def test_replace(router: Router, folder: Path, server_urls: list[str]) -> None:
    load = {"table": "to_loose", "mode": "replace"}
    for name, rows in (("a", range(10)), ("b", range(5, 15))):
        (folder / f"{name}.csv").write_text("id,note\n" + "".join(f"{n},{name}\n" for n in rows))
        run_job(router, {**SPEC, "extract": {"files": [f"{name}.csv"]}, "load": load})
        assert all_rows(router, "to_loose") == [(n, name) for n in rows]
    with databases(server_urls[2:3]) as [url]:
        connection = plain_connection(url)
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE there (id bigint, note text); INSERT INTO there VALUES (1)")
            run_job(router, {**SPEC, "extract": {"files": ["a.csv"]}, "load": {**load, "table": "there", "url": url}})
            cursor.execute("SELECT count(*), max(note) FROM there")
            assert cursor.fetchone() == (10, "a")
        connection.close()


def test_a_dry_run_shows_rows(router: Router, folder: Path) -> None:
    write(folder / "a.csv", ROWS)
    plan = plan_job(router, {**SPEC, "extract": {"files": ["a.csv"]}})
    assert [row[0] for row in plan["samples"][0]["rows"]] == ["0", "1", "2"]
    assert loaded(router) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": "x"}, "what is read ends with"),
        ({"a.csv": ""}, "does not begin with a line"),
        ({"a.csv": "id,id\n"}, "does not begin with a line"),
        ({"a.csv": "id\n", "b.csv": "note\n"}, "has the columns note"),
        ({"a.jsonl": "[]\n"}, "does not begin with a JSON object"),
    ],
)
def test_what_is_no_table_is_refused(router: Router, folder: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(JobRefused, match=message):
        run_job(router, {**SPEC, "extract": {"files": ["*.*"]}})


def test_a_scan_that_does_not_know_quotes_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: newlines between quotes end a row."""
    write(folder / "a.csv", ROWS)
    monkeypatch.setattr(file_formats._Csv, "whole", file_formats._Lines.whole)
    rows = [row for _, row in file_formats.reader_of(folder / "a.csv").rows(None, None)]
    assert len(rows) != len(ROWS)
