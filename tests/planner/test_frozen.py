"""Frozen trees: what is remembered of them is true as long as nobody changes them, and nobody does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shardpool.errors import ShardpoolError
from shardpool.planner import analyse
from shardpool.planner.ast import freeze, parse, walk, walk_flat
from shardpool.planner.frozen import once, planning, remembering
from tests.planner.golden import all_cases
from tests.planner.hand_made import TOPOLOGY


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, bytes]]]:
    """All trees that are frozen during the test, with the bytes that they had then."""
    found: list[tuple[Any, bytes]] = []

    def noted(message: Any) -> None:
        found.append((message, message.SerializeToString(deterministic=True)))
        freeze(message)

    monkeypatch.setattr("shardpool.planner.analyse.freeze", noted)
    yield found


def changed(found: list[tuple[Any, bytes]]) -> list[str]:
    return [str(tree) for tree, before in found if tree.SerializeToString(deterministic=True) != before]


def test_plans_are_the_same_when_trees_are_remembered_and_no_tree_is_changed(frozen: list[tuple[Any, bytes]]) -> None:
    cases = [case for case in all_cases() if len(case.statement) < 5000]
    for case in cases:
        with remembering():
            assert case.actual() == case.expected
    assert len(frozen) > len(cases)
    assert changed(frozen) == []


def test_a_change_would_be_seen(frozen: list[tuple[Any, bytes]]) -> None:
    with remembering():
        select = parse("select id from orders where active").stmts[0].stmt.select_stmt
        analyse.analyse(select, TOPOLOGY)
        del select.target_list[:]
    assert len(changed(frozen)) == 1


def test_what_was_frozen_is_read_once_and_forgotten_with_the_planning() -> None:
    select = parse("select a, (select b from u) from t").stmts[0].stmt.select_stmt
    before = [type(node) for node in walk(select)], [type(node) for node in walk_flat(select)]
    with remembering():
        freeze(select)
        assert walk_flat(select) is walk_flat(select)
        assert ([type(node) for node in walk(select)], [type(node) for node in walk_flat(select)]) == before
    assert planning.memory is None
    assert walk_flat(select) is not walk_flat(select)


def test_a_result_is_remembered_for_the_same_objects_only() -> None:
    calls = []

    @once
    def length(of: list[int]) -> int:
        calls.append(of)
        return len(of)

    with remembering():
        # Each list is freed unless it is kept: its place in memory could be that of the next one.
        assert [length([0] * size) for size in range(200)] == list(range(200))
        known = [1, 2]
        assert (length(known), length(known), len(calls)) == (2, 2, 201)
    assert (length(known), len(calls)) == (2, 202)


def test_an_error_is_not_remembered() -> None:
    calls = []

    @once
    def failing(of: object) -> None:
        calls.append(of)
        raise ShardpoolError("no")

    with remembering():
        for _ in range(2):
            with pytest.raises(ShardpoolError):
                failing(calls)
    assert len(calls) == 2
