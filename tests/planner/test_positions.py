"""The proof of a text compares all that a tree says, and nothing of where it stood."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import postgast
import pytest

from shardpool.errors import InvalidSQL
from shardpool.planner.ast import UnfaithfulText, parse, to_sql
from shardpool.planner.positions import meaning, same
from tests.planner.golden import all_cases

QUERIES = sorted((Path(__file__).parents[2] / "schemas" / "tpch" / "queries").glob("*.sql"))


def statements() -> Iterator[str]:
    yield from (path.read_text() for path in QUERIES)
    yield from (case.statement for case in all_cases() if len(case.statement) < 2000)


def scalars(message: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each scalar field that is set below *message*, with its message."""
    for field, value in message.ListFields():
        if field.message_type is None:
            yield message, field
        else:
            for item in value if field.is_repeated else (value,):
                yield from scalars(item)


def other(field: Any, value: Any) -> Any:
    """Return another value of a field."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    return next(it.number for it in field.enum_type.values if it.number != value) if field.enum_type else value + 1


def tree(sql: str) -> Any:
    return parse(sql).stmts[0].stmt


def test_every_single_change_is_seen_and_no_position_is() -> None:
    counted = 0
    for path in QUERIES:
        before, after = tree(path.read_text()), tree(path.read_text())
        for message, field in scalars(after):
            value = getattr(message, field.name)
            setattr(message, field.name, other(field, value))
            is_position = "location" in field.name or field.name.endswith(("_start", "_end"))
            assert same(before, after) == is_position, (path.name, field.full_name)
            setattr(message, field.name, value)
            counted += 1
        assert same(before, after)
    assert counted > 2500


def test_what_was_moved_in_the_text_is_the_same() -> None:
    for sql in statements():
        try:
            before, after = tree(sql), tree(f"  /* moved */\n\n {sql}")
        except (InvalidSQL, IndexError):
            continue
        assert before != after or not sql.strip()
        assert same(before, after)
        assert meaning(before) == meaning(after)


@pytest.mark.parametrize("levels", [1, 5, 20, 29, 30, 31, 32, 33, 40, 45])
def test_at_any_depth(levels: int) -> None:
    text = "NOT " * levels
    before, after, wrong = (tree(f"select {it}") for it in (f"{text}a", f"   {text}a", f"{text}b"))
    assert (same(before, after), same(before, wrong)) == (True, False)
    assert (meaning(before) == meaning(after), meaning(before) == meaning(wrong)) == (True, False)
    chain = f"a{' + b' * levels}"
    before, after = tree(f"select {chain}"), tree(f"select    {chain}")
    assert same(before, after)
    assert meaning(before) == meaning(after)


def test_a_text_that_says_something_else_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    select = tree("select a from t where a > 1 and b").select_stmt
    right = to_sql(select)
    monkeypatch.setattr(postgast, "deparse", lambda _: right.replace("> 1", ">= 1"))
    with pytest.raises(UnfaithfulText):
        to_sql(select)
