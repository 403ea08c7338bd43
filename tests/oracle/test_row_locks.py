"""Statements of the corpus that lock the rows they read are answered as one PostgreSQL answers them, or refused."""

from __future__ import annotations

import pytest

from tests.oracle.corpus import cases
from tests.oracle.oracle import Oracle

CLAUSES = (" for share", " for update", " for no key update skip locked", " for key share nowait")
#: Rows that no partition can lock by itself, and those of reference tables.
ALLOWED = {"SP104", "SP144"}
CASES = [case for case in cases() if not case.refused and not case.bug and " for " not in case.sql.lower()]
SLICES = 8


@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=[pytest.mark.slow] if part else []) for part in range(SLICES)]
)
def test_rows_that_are_locked_are_the_same(oracle: Oracle, part: int) -> None:
    answered = failed = 0
    for number, case in enumerate(CASES[part::SLICES]):
        if case.since > oracle.version:
            continue
        # What PostgreSQL locks not at all is for both an error, though not of the same words: a rung before it may say
        # so.
        sql = case.sql.rstrip().rstrip(";") + CLAUSES[number % len(CLAUSES)]
        outcome = oracle.check(sql, case.params, ties=case.ties or "limit" in sql)
        if outcome.plain.error is not None:
            assert outcome.sharded.error is not None, f"{case.place}\n{outcome}"
            failed += 1
            continue
        assert outcome.kind == "same" or (outcome.kind == "refused" and outcome.why in ALLOWED), (
            f"{case.place}\n{outcome}"
        )
        answered += outcome.kind == "same"
    assert answered > 20 and failed > 20, (answered, failed)
