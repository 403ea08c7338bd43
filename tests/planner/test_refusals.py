"""Every entry of the catalogue of refusals is refused by its example, with its code, before anything is sent."""

from __future__ import annotations

import re

import pytest

from shardpool.errors import RoutingError, UnsupportedStatement
from shardpool.planner.keyed import compile_keyed
from shardpool.planner.refusals import REFUSALS, refuse
from shardpool.planner.statement import from_text
from shardpool.planner.writes import compile_statement
from tests.oracle.corpus import cases
from tests.planner.hand_made import TOPOLOGY, plan

#: Raised when a server has answered; their examples run in tests/oracle/corpus.
FROM_SERVERS = frozenset({"SP116"})
#: Refused in a transaction, or by explain(); their examples run in tests/router and tests/oracle.
ELSEWHERE = frozenset({"SP130", "SP134", "SP137", "SP138", "SP139", "SP145"})


def codes_of(example: str) -> set[str]:
    """The codes with which query() and execute() refuse a statement."""
    found = set()
    for attempt in (_query, _execute):
        try:
            attempt(example)
        except UnsupportedStatement as error:
            found.add(error.code)
        except RoutingError:
            continue
    return found


def _query(example: str) -> None:
    compile_statement(from_text(example), TOPOLOGY).bind({}, TOPOLOGY)


def _execute(example: str) -> None:
    compiled = compile_keyed(from_text(example), TOPOLOGY)
    compiled.check_written(TOPOLOGY.shard_map.partitions[0], {}, TOPOLOGY)


@pytest.mark.parametrize("code", REFUSALS)
def test_the_example_is_refused_with_its_code(code: str) -> None:
    _, _, example = REFUSALS[code]
    if code in FROM_SERVERS:
        assert any(case.refused == code and case.sql == example for case in cases())
    elif code not in ELSEWHERE:
        assert code in codes_of(example), example


@pytest.mark.parametrize("code", REFUSALS)
def test_an_entry_says_what_is_wrong_and_the_way_out(code: str) -> None:
    message, hint, _ = REFUSALS[code]
    assert re.fullmatch(r"SP1\d\d", code)
    assert message and hint
    assert set(re.findall(r"\{(\w*)", message)) <= {"what"}
    error = refuse(code, "this")
    assert error.code == code
    assert str(error).startswith(f"[{code}] ") and hint in str(error)


def test_no_code_is_given_twice() -> None:
    from shardpool.ddl.refusals import REFUSALS as OF_SCHEMAS

    assert not REFUSALS.keys() & OF_SCHEMAS.keys()


@pytest.mark.parametrize(
    "statement",
    [
        "select 1",
        "select xmin2 from (select 1 as xmin2) x",
        "select 'orders'::text, 'ctid', 'pg_class' from orders",
        "select count(*) from orders where note = 'for update'",
        "select id as for_update from orders",
        "select id from orders where customer_id = 42 for update",
        "select lower(note), upper(note) from orders",
        "with pg_things as (select 1) select * from pg_things",
    ],
)
def test_what_only_looks_like_it_is_not_refused(statement: str) -> None:
    assert plan(statement)
