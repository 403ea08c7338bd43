"""init, schema apply, load, status: from empty servers to rows."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.cli.cli_tools import SHOP_SQL, program, run, write


def test_init_may_be_run_again(empty: Path) -> None:
    first = run("init", config=empty)
    assert first.code == 0
    assert "no tables yet" in first.out
    document = run("init", "--json", config=empty).json
    assert document["keyspace"] == "shop"
    assert document["partitions"] == 8
    assert [len(it["partitions"]) for it in document["shards"]] == [4, 4]


def test_apply_again_changes_nothing(empty: Path) -> None:
    first = run("schema", "apply", SHOP_SQL, "--json", config=empty).json
    assert first["unchanged"] == 0
    assert first["tables"] == ["country", "customers", "order_items", "orders"]
    second = run("schema", "apply", SHOP_SQL, config=empty)
    assert second.code == 0
    assert "0 applied" in second.out


def test_tables_can_be_declared_here(empty: Path, tmp_path: Path) -> None:
    script = "create table visits (shop bigint, day date, n int, primary key (shop, day));"
    script += "create table kinds (k text primary key)"
    file = write(tmp_path / "visits.sql", script)
    refused = run("schema", "apply", file, "--json", config=empty)
    assert refused.code == 1
    assert refused.json["error"]["type"] == "SchemaError"
    assert refused.json["error"]["code"] == "SP210"
    applied = run("schema", "apply", file, "--shard", "visits=shop", "--reference", "kinds", config=empty)
    assert applied.code == 0
    tables = {it["name"]: it for it in run("status", "--json", config=empty).json["tables"]}
    assert tables["visits"] == {"name": "visits", "kind": "sharded", "key": ["shop"]}
    assert tables["kinds"]["kind"] == "reference"
    assert run("schema", "apply", file, "--shard", "visits", config=empty).code == 2


def test_views_are_applied_and_queried(empty: Path, tmp_path: Path) -> None:
    assert run("schema", "apply", SHOP_SQL, config=empty).code == 0
    file = write(tmp_path / "views.sql", "create view open_orders as select * from orders where status = 'open';")
    assert run("schema", "apply", file, "--json", config=empty).json["applied"] == 1
    assert run("schema", "apply", file, "--json", config=empty).json["unchanged"] == 1
    assert run("query", "select count(*) from open_orders", "--json", config=empty).json["rows"] == [[0]]
    assert run("doctor", config=empty).code == 0
    dropped = write(tmp_path / "dropped.sql", "drop view open_orders")
    assert run("schema", "apply", dropped, "--json", config=empty).json["applied"] == 1
    assert run("query", "select count(*) from open_orders", config=empty).code == 1


def test_load_files(empty: Path, tmp_path: Path) -> None:
    country = write(tmp_path / "country.csv", "code,name\nde,Germany\n")
    assert run("load", "country", country, config=empty).code == 0
    rows = [f"{n},de,name {n},{n}@example.org\n" for n in range(100)]
    header = "customer_id,country_code,name,email\n"
    first = write(tmp_path / "first.csv", header + "".join(rows[:50]))
    second = tmp_path / "second.csv.gz"
    second.write_bytes(gzip.compress((header + "".join(rows[50:])).encode()))
    document = run("load", "customers", first, second, "--json", config=empty).json
    assert document["rows"] == 100
    assert [it["rows"] for it in document["files"]] == [50, 50]
    assert run("query", "select count(*) from customers", "--json", config=empty).json["rows"] == [[100]]


def test_load_from_stdin_with_options(empty: Path) -> None:
    options = ("--format", "csv", "-d", ";", "--no-header", "--null", "-", "--columns", "shop,n,day")
    found = program("load", "visits", "-", *options, "--config", empty, stdin="1;-;2026-01-01\n2;5;2026-01-01\n")
    assert found.code == 0, found.err
    rows = run("query", "select shop, n from visits order by 1", "--json", config=empty).json["rows"]
    assert rows == [[1, None], [2, 5]]


def test_a_bad_row_names_file_and_line(empty: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "bad.csv", "shop,day,n\n9,2026-01-01,1\n9,2026-01-02,many\n")
    found = run("load", "visits", file, config=empty)
    assert found.code == 1
    assert f"{file}, line 3" in found.err
    assert "Traceback" not in found.err
    assert run("query", "select count(*) from visits where shop = 9", "--json", config=empty).json["rows"] == [[0]]


@pytest.mark.parametrize("table", ["nowhere", "Visits"])
def test_an_unknown_table(empty: Path, tmp_path: Path, table: str) -> None:
    file = write(tmp_path / "x.csv", "a\n1\n")
    found = run("load", table, file, "--json", config=empty)
    assert found.code == 1
    assert found.json["error"]["type"] == "UnknownTable"


def test_status(empty: Path) -> None:
    found = run("status", config=empty)
    assert found.code == 0
    for words in ("keyspace shop", "s0", "s1", "4 of 8", "customers (customer_id)", "none"):
        assert words in found.out
    document = run("status", "--json", config=empty).json
    assert document["moves"] == []
    for shard in document["shards"]:
        assert shard["reachable"]
        assert shard["bytes"] > 0
        assert shard["connections"]["limit"] > 0
        assert sum(it["bytes"] for it in shard["partitions"]) <= shard["bytes"]
