"""Repartition: with dividing made cheap, joins of large tables are answered alike, and a faulty division is seen."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from shardpool.errors import ShardpoolError
from shardpool.executor import dividing
from shardpool.planner import choices, repartition
from shardpool.planner.plan import Relation, StagesPlan
from tests.oracle.corpus import Case, cases
from tests.oracle.generator import Generator
from tests.oracle.oracle import Oracle
from tests.oracle.test_generated import smallest

STATEMENTS = int(os.environ.get("SHARDPOOL_STATEMENTS", "300")) // 2
SEED = os.environ.get("SHARDPOOL_SEED") or secrets.token_hex(4)

JOINS = [
    "select count(*), sum(o.total), min(v.page) from visits v join orders o on o.customer_id = v.customer_id",
    "select v.page, o.id from visits v left join orders o on o.id = v.customer_id order by 1, 2",
    "select v.page, p.login from people p right join visits v on p.boss = v.login order by 1, 2",
    "select p.login, l.n from people p left join logins l on l.login = p.boss order by 1, 2",
    "select p.boss, count(*), count(l.n) from people p left join logins l on l.login = p.boss group by 1 order by 1",
    "select o.code, count(*) from orders o join visits v on v.customer_id = o.id group by 1 order by 1",
    "select o.id from orders o where not exists (select from visits v where v.customer_id = o.id) order by 1",
    "select o.id, s.v from orders o join short s on s.id = o.small join visits v on v.customer_id = s.id order by 1, 2",
    "select d.day, p.login from daily d join people p on p.day = d.day and p.customer_id = d.customer_id order by 1, 2",
]


@pytest.fixture
def cheap(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Dividing is taken wherever it can be. Plans that were made so do not outlive the test."""
    monkeypatch.setattr(choices, "DIVIDING", -1e15)
    oracle.forget_plans()
    yield monkeypatch
    monkeypatch.undo()
    oracle.forget_plans()


def divides(oracle: Oracle, sql: str, params: Any = None) -> bool:
    plan = oracle.router.explain(sql, params or {}).plan
    return isinstance(plan, StagesPlan) and any(isinstance(it, Relation) and it.divided_by for it in plan.stages)


@pytest.mark.parametrize("sql", JOINS)
def test_a_join_of_divided_tables(oracle: Oracle, cheap: pytest.MonkeyPatch, sql: str) -> None:
    assert divides(oracle, sql), oracle.router.explain(sql)
    outcome = oracle.check(sql)
    assert outcome.kind == "same", str(outcome)


def test_small_tables_are_not_divided(oracle: Oracle) -> None:
    assert not any(divides(oracle, sql) for sql in JOINS)


def test_the_corpus(oracle: Oracle, cheap: pytest.MonkeyPatch) -> None:
    """The statements that divide, and what else takes stages beside them."""
    found: list[Case] = [case for case in cases() if not case.refused and not case.bug and case.since <= oracle.version]
    divided = 0
    for case in found:
        try:
            if not divides(oracle, case.sql, case.params):
                continue
        except ShardpoolError:
            continue  # as the oracle's own answer
        divided += 1
        outcome = oracle.check(case.sql, case.params, ties=case.ties)
        assert outcome.kind == "same", f"{case.place}\n{outcome}"
    assert divided > 30


def test_random_statements(oracle: Oracle, cheap: pytest.MonkeyPatch) -> None:
    print(f"SHARDPOOL_SEED={SEED} SHARDPOOL_STATEMENTS={STATEMENTS * 2}")
    for number in range(STATEMENTS):
        generator = Generator(f"{SEED}:{number}")
        statement = generator.statement()
        if oracle.check(generator.spell(statement), generator.params).kind != "same":
            pytest.fail(f"SHARDPOOL_SEED={SEED}, statement {number}\n{smallest(oracle, generator, statement)}")


def rows_without_a_value_are_lost(patch: pytest.MonkeyPatch) -> None:
    original = dividing.share
    patch.setattr(dividing, "share", lambda *given: original(*given).replace("coalesce(", "nullif("))


def tables_are_divided_differently(patch: pytest.MonkeyPatch) -> None:
    original = dividing.share

    def share(stage: Relation, shard: str, place: int) -> str:
        moved = place + (stage.table == "people")
        return original(stage, shard, moved % len(stage.targets))

    patch.setattr(dividing, "share", share)


def any_column_divides(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("shardpool.planner.partitionwise.PartitionWise._check_colocated", lambda *given: None)
    patch.setattr(repartition.Equalities, "members", lambda self, member: [(i, "customer_id") for i in _items(member)])


def _items(member: Any) -> list[Any]:
    return [item for item in member[0].scope.items if item.columns and "customer_id" in item.columns]


@pytest.mark.parametrize(
    ("plant", "sql"),
    [
        (rows_without_a_value_are_lost, "select v.page, p.login from people p right join visits v on p.boss = v.login"),
        (tables_are_divided_differently, "select p.login, l.n from people p left join logins l on l.login = p.boss"),
        (any_column_divides, "select count(*) from visits v join orders o on o.id = v.customer_id"),
    ],
    ids=lambda it: it.__name__ if callable(it) else "",
)
def test_a_faulty_division_is_seen(oracle: Oracle, cheap: pytest.MonkeyPatch, plant: Any, sql: str) -> None:
    assert oracle.check(sql).kind == "same"
    plant(cheap)
    oracle.forget_plans()
    outcome = oracle.check(sql)
    assert outcome.kind == "mismatch", str(outcome)
