"""unique: a column becomes unique over all partitions, and ceases to be."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from sqlalchemy import text

from shardpool import Router
from shardpool.moves.unique import unfinished_build
from tests.cli.cli_tools import run
from tests.support.waiting import eventually


def test_a_column_becomes_unique(shop: Path) -> None:
    plan = run("unique", "add", "customers", "name", "--plan", "--json", config=shop)
    assert plan.code == 0 and not plan.json["applied"]
    assert plan.json["plan"]["reservations"] == "customers_name" and plan.json["plan"]["duplicates"] == []
    added = run("unique", "add", "customers", "name", "--into", "names", config=shop)
    assert added.code == 0 and "customers.name is unique" in added.out
    assert "customers.name unique over" in added.out
    assert run("doctor", "--json", config=shop).json["healthy"]
    again = run("unique", "add", "customers", "name", "--json", config=shop)
    assert again.code == 1 and again.json["error"]["type"] == "PreflightFailed"
    dropped = run("unique", "drop", "customers", "name", config=shop)
    assert dropped.code == 0 and "is not unique any more" in dropped.out
    assert run("unique", "drop", "customers", "name", config=shop).code == 1


def test_what_is_there_twice(shop: Path) -> None:
    run("query", "update customers set name = 'Twice' where customer_id in (3, 4)", config=shop)
    plan = run("unique", "add", "customers", "name", "--plan", config=shop)
    assert plan.code == 1 and "is there more than once: 'Twice' (keys " in plan.out
    added = run("unique", "add", "customers", "name", "--json", config=shop)
    assert added.code == 1 and added.json["error"]["type"] == "NotUnique"


def test_an_interrupt(shop: Path) -> None:
    """Ctrl-C, while a transaction holds up the first partition: nothing is left."""
    run("query", "update customers set name = 'name ' || customer_id", config=shop)
    with Router.from_file(shop, listen=False) as router:
        with router.transaction() as held:
            for key in range(60):
                held.execute(key, "UPDATE customers SET name = name WHERE customer_id = :key", {"key": key})
            with subprocess.Popen(
                [sys.executable, "-m", "shardpool", "unique", "add", "customers", "name", "--config", str(shop)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process:
                try:
                    eventually(lambda: unfinished_build(router.catalog) is not None, "it has begun", 60)
                    process.send_signal(signal.SIGINT)
                    out, _ = process.communicate(timeout=60)
                finally:
                    process.kill()
            assert process.returncode == 130 and "Traceback" not in out, out
        router.refresh()
        assert unfinished_build(router.catalog) is None and "customers_name" not in router.topology.tables
        assert router.topology.tables["customers"].unique == ()
    assert run("doctor", "--json", config=shop).json["healthy"]


def test_doctor_tells_of_one_that_was_left(shop: Path) -> None:
    with Router.from_file(shop, listen=False) as router:
        words = "INSERT INTO shardpool_catalog.unique_build (keyspace, table_name, column_name, state) VALUES "
        with router.catalog.begin() as connection:
            connection.execute(
                text(words + "(:keyspace, 'customers', 'name', 'dropping')"), {"keyspace": router.catalog.keyspace}
            )
    told = " ".join(run("doctor", config=shop).out.split())
    assert "customers.name is being made unique" in told and "shardpool unique add customers name" in told
    assert run("unique", "drop", "customers", "name", config=shop).code == 0
    assert run("doctor", "--json", config=shop).json["healthy"]
