"""query, explain: tables, CSV, JSON, parameters, keys, and what goes wrong."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.cli.cli_tools import program, run, write


def test_a_table(shop: Path) -> None:
    found = run("query", "select country_code, count(*) from customers group by 1 order by 1", config=shop)
    assert found.code == 0
    lines = [line.split() for line in found.out.splitlines()]
    assert ["country_code", "count"] in lines
    assert ["de", "40"] in lines
    assert ["fr", "20"] in lines
    assert "2 rows · pushdown" in found.out


def test_json(shop: Path) -> None:
    sql = (
        "select 1.50 as n, 'ä' as t, null as u, true as b, date '2026-01-02' as d, array[1,2] as a, 'NaN'::float8 as f"
    )
    document = run("query", sql, "--json", config=shop).json
    assert document["columns"] == ["n", "t", "u", "b", "d", "a", "f"]
    assert document["rows"] == [["1.50", "ä", None, True, "2026-01-02", [1, 2], "nan"]]
    assert document["row_count"] == 1
    assert document["route"] == "reference"


def test_csv(shop: Path) -> None:
    sql = "select customer_id, name, null as nothing, 'a,\"b' as odd from customers where customer_id in (1, 2)"
    sql += " order by 1"
    found = run("query", sql, "--csv", config=shop)
    assert list(csv.reader(io.StringIO(found.out))) == [
        ["customer_id", "name", "nothing", "odd"],
        ["1", "name 1", "", 'a,"b'],
        ["2", "name 2", "", 'a,"b'],
    ]


def test_parameters(shop: Path) -> None:
    sql = "select name from customers where customer_id = :id and email <> :none"
    document = run("query", sql, "-p", "id=42", "-p", "none='1'", "--json", config=shop).json
    assert document["rows"] == [["name 42"]]
    assert document["route"] == "single"


def test_a_statement_from_a_file_and_from_stdin(shop: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "q.sql", "select count(*) from customers")
    assert run("query", "--file", file, "--json", config=shop).json["rows"] == [[60]]
    found = program("query", "-", "--json", "--config", shop, stdin="select count(*) from customers")
    assert found.json["rows"] == [[60]]


def test_a_key_sends_a_write_to_its_partition(shop: Path) -> None:
    written = run("query", "update customers set name = 'new' where customer_id = 7", "--key", "7", config=shop)
    assert written.code == 0
    assert "1 row affected · single" in written.out
    read = run("query", "select name from customers where customer_id = 7", "--key", "7", "--json", config=shop)
    assert read.json["rows"] == [["new"]]
    assert run("query", "select 1", "--key", "seven", config=shop).code == 2


def test_a_write_over_several_partitions(shop: Path) -> None:
    written = run("query", "update customers set email = lower(email) where customer_id < 30", config=shop)
    assert written.code == 0
    assert "30 rows affected · partitions" in written.out


def test_no_rows_and_wide_values(shop: Path) -> None:
    assert "0 rows" in run("query", "select name from customers where customer_id = -1", config=shop).out
    wide = run("query", "select repeat('x', 300) as wide", config=shop).out
    assert "x" * 300 in wide  # not folded in a pipe


@pytest.mark.parametrize(
    ("sql", "type", "words"),
    [
        ("select * from nowhere", "UnknownTable", "nowhere"),
        ("selec 1", "InvalidSQL", "selec"),
        ("explain select 1", "UnsupportedStatement", "SP101"),
        ("select nothing from customers", "UndefinedColumn", "nothing"),
        ("select 1 / (customer_id - customer_id) from customers", "DivisionByZero", "zero"),
    ],
)
def test_errors(shop: Path, sql: str, type: str, words: str) -> None:
    found = run("query", sql, config=shop)
    assert found.code == 1
    assert found.out == ""
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    assert words in found.err
    error = run("query", sql, "--json", config=shop).json["error"]
    assert error["type"] == type
    assert words in error["message"]
    assert error["retryable"] is False


@pytest.mark.parametrize(
    "sql",
    [
        "-- how many?\nselect 1 as one",
        "--get it\nselect 1 as one",
        "--\nselect 1 as one",
        "-- a\n-- b\nselect 1 as one",
    ],
)
def test_a_statement_may_begin_with_a_comment(shop: Path, sql: str) -> None:
    assert run("query", "--json", sql, config=shop).json["rows"] == [[1]]
    assert run("explain", sql, config=shop).code == 0
    wrong = run("query", "--jsn", sql, config=shop)
    assert wrong.code == 2 and "--jsn" in wrong.err


def test_explain(shop: Path) -> None:
    found = run("explain", "select country_code, count(*) from customers group by 1", config=shop)
    assert found.code == 0
    for words in ("pushdown", "not pinned to a partition key", "shop_p*.customers", "s0", "s1", "combined by"):
        assert words in found.out
    single = run("explain", "select * from customers where customer_id = :id", "-p", "id=3", config=shop)
    assert "answers alone" in single.out
    gather = run("explain", "select a.name from customers a join customers b on a.name = b.email", config=shop)
    assert "gather customers" in gather.out


def test_explain_a_write(shop: Path) -> None:
    found = run("explain", "update customers set name = upper(name)", config=shop)
    assert "write: partitions" in found.out
    moved = run("explain", "update customers set customer_id = customer_id + 1", config=shop)
    assert "write: found first" in moved.out and "changing the partition key" in moved.out
    document = run("explain", "delete from customers where customer_id = 3", "--json", config=shop).json
    assert document["rung"] == "single"
    assert len(document["shards"]) == 1
    refused = run("explain", "delete from customers", "--analyze", config=shop)
    assert "SP137" in refused.err and "found first" not in refused.out


def test_explain_as_json(shop: Path) -> None:
    document = run("explain", "select * from customers where customer_id = 3", "--json", config=shop).json
    assert document["rung"] == "single"
    assert len(document["shards"]) == 1
