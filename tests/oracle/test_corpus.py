"""Every hand-written statement is answered as one plain PostgreSQL answers it, on the rung that it should be."""

from __future__ import annotations

import pytest

from tests.oracle.corpus import Case, cases
from tests.oracle.oracle import Oracle

CASES = [
    pytest.param(
        case, id=case.place, marks=[pytest.mark.xfail(reason=f"bug {case.bug}", strict=True)] if case.bug else []
    )
    for case in cases()
]


@pytest.mark.parametrize("case", CASES)
def test_the_answer_is_that_of_one_postgresql(oracle: Oracle, case: Case) -> None:
    if case.since > oracle.version:
        pytest.skip(f"PostgreSQL {case.since} and later")
    outcome = oracle.check(case.sql, case.params, ties=case.ties)
    if case.refused:
        assert (outcome.kind, outcome.why) == ("refused", case.refused), f"{case.place}\n{outcome}"
        return
    assert outcome.kind == "same", f"{case.place}\n{outcome}"
    if case.rung:
        assert outcome.rung == case.rung, f"{case.place}\n{outcome}"


def test_the_corpus_is_not_lost() -> None:
    assert len(CASES) > 700


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        (f"select count(*) from orders where id in ({', '.join(map(str, range(2000)))})", {}),
        (f"select count(*) from orders where customer_id in ({', '.join(map(str, range(2000)))})", {}),
        (
            f"select count(*) from orders where id in ({', '.join(f':p{number}' for number in range(1500))})",
            {f"p{number}": number for number in range(1500)},
        ),
        ("select count(*) from orders where customer_id = any (:x)", {"x": list(range(5000))}),
        ("select count(*), max(id) from orders where customer_id in :x group by code", {"x": tuple(range(5000))}),
        ("select id from orders where " + " or ".join(f"id = {number}" for number in range(500)) + " order by id", {}),
        (
            "select " + ", ".join(f"id + {number} as c{number}" for number in range(400)) + " from orders order by id",
            {},
        ),
        (f"select id, {' || '.join(['note'] * 300)} as x from orders where {' + '.join(['id'] * 300)} > 0", {}),
        (f"select {' || '.join(['note'] * 300)} as x from orders where customer_id = 3", {}),
        (f"select sum({' + '.join(['quantity'] * 200)}), random() < 2 as x from orders group by code, x", {}),
        (" union all ".join(f"select id + {number} from orders" for number in range(120)), {}),
        (f"select id, {'coalesce(' * 200}note{', id::text)' * 200} as x from orders", {}),
        (f"select id from orders where {'id in (select id from orders where ' * 12}id > 100{')' * 12}", {}),
    ],
    ids=[
        *("literals", "keys", "parameters", "array", "tuple", "alternatives", "columns"),
        *("chains", "pinned", "sum", "unions", "calls", "subqueries"),
    ],
)
def test_long_lists_are_answered_too(oracle: Oracle, sql: str, params: dict[str, object]) -> None:
    outcome = oracle.check(sql, params)
    assert outcome.kind == "same", f"{outcome.why}: {outcome.sharded}"
