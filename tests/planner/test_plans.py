"""Golden plans: the rung, its reasons, the text for a shard and the merge, as they stand in ``cases/*.txt``."""

from __future__ import annotations

import copy

import pytest

from tests.planner.golden import Golden, all_cases
from tests.planner.hand_made import TOPOLOGY, compiled

GOLDEN = all_cases()
HOW = """

If the new plan is right, accept it and read the difference:
    SHARDPOOL_ACCEPT=1 pytest tests/planner && git diff tests/planner/cases"""


@pytest.mark.parametrize("case", GOLDEN, ids=[case.title for case in GOLDEN])
def test_the_plan_is_the_accepted_one(case: Golden) -> None:
    actual = case.actual()
    if actual != case.expected:
        pytest.fail(f"{case.title}\n\nexpected:\n{case.expected}\n\ngot:\n{actual}{HOW}", pytrace=False)


def test_the_cases_are_not_lost() -> None:
    assert len(GOLDEN) > 90
    assert len({case.statement for case in GOLDEN}) == len(GOLDEN)


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from orders o join items i on i.order_id = o.id",
        "select id from orders o where exists (select from items i where i.order_id = o.id)",
    ],
)
def test_a_map_that_was_read_anew_plans_alike(sql: str) -> None:
    """A statement may have been compiled with one topology, and be planned with another of equal tables."""
    anew = copy.deepcopy(TOPOLOGY)
    assert anew.tables["items"] is not TOPOLOGY.tables["items"]
    assert repr(compiled(sql).bind({}, anew)) == repr(compiled(sql).bind({}, TOPOLOGY))
