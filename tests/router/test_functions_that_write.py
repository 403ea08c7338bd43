"""A function that writes, called by a query over several partitions: an error, and nothing is written or lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.exc import DBAPIError

from shardpool import Config, Router
from shardpool.executor import stages
from tests.conftest import SHOP_DDL

FUNCTIONS = {
    "INSERT": "INSERT INTO orders VALUES (customer, 999, 1, 'x')",
    "UPDATE": "UPDATE orders SET total = 0 WHERE customer_id = customer",
    "DELETE": "DELETE FROM orders WHERE customer_id = customer",
    "TRUNCATE": "TRUNCATE orders",
}


@pytest.fixture(scope="module")
def writing(config: Config) -> Iterator[Router]:
    with Router(config) as router:
        router.create_schema(SHOP_DDL)
        for name, body in FUNCTIONS.items():
            router.create_schema(
                f"CREATE FUNCTION f_{name}(customer bigint) RETURNS bigint LANGUAGE plpgsql AS "
                f"'BEGIN {body.replace(chr(39), chr(39) * 2)}; RETURN customer; END'"
            )
        router.copy_into("customers", [(key, "n", None, None) for key in range(20)])
        router.copy_into("orders", [(key, 1, 5, None) for key in range(20)])
        yield router


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_it_writes_is_refused(writing: Router, name: str) -> None:
    before = writing.query("SELECT * FROM orders").all()
    sql = f"SELECT f_{name}(customer_id) FROM orders ORDER BY 1"
    assert "gather" in writing.explain(sql).rung
    with pytest.raises(DBAPIError, match=f"cannot execute {name}|cannot {name}"):
        writing.query(sql)
    with pytest.raises(DBAPIError, match=f"cannot execute {name}|cannot {name}"):
        writing.stream(sql).fetchall()
    assert sorted(writing.query("SELECT * FROM orders").all()) == sorted(before)


def test_on_one_partition_it_writes(writing: Router) -> None:
    assert writing.execute(3, "SELECT f_INSERT(3)").scalar() == 3
    assert writing.execute(3, "SELECT count(*) FROM orders WHERE customer_id = 3").scalar() == 2


def test_without_the_protection_it_would_be_lost(writing: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.Job, "protect", lambda self, stages: None)
    before = writing.query("SELECT count(*) FROM orders").scalar()
    writing.query("SELECT f_UPDATE(customer_id) FROM orders").all()
    assert writing.query("SELECT count(*) FROM orders WHERE total = 0").scalar() == 0
    assert writing.query("SELECT count(*) FROM orders").scalar() == before
