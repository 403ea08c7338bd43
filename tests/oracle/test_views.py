"""Statements of the corpus with views in the places of their tables are answered as one PostgreSQL answers them."""

from __future__ import annotations

from collections.abc import Iterator

import postgast
import pytest
from postgast import pg_query_pb2 as pb

from shardpool.errors import InvalidSQL
from shardpool.planner.statement import from_text
from tests.oracle.corpus import Case, cases
from tests.oracle.generator import Generator
from tests.oracle.oracle import Oracle
from tests.oracle.test_generated import SEED, STATEMENTS

#: Views of all their rows are called all_orders, ...
TABLES = ("customers", "orders", "items", "country")
#: What a view does not have: row locks over groups, rows as values, samples.
ALLOWED = {"SP104", "SP141", "SP143"}
SLICES = 12


def by_views(sql: str) -> str:
    """Name a view wherever a table is read, under the table's name."""
    statement = from_text(sql)
    if "\\:" in sql:
        return sql
    ctes = {node.ctename for _, node in postgast.walk(statement.tree) if isinstance(node, pb.CommonTableExpr)}
    edits = [(start, end, f":{name}") for start, end, name in statement.places]
    for _, node in postgast.walk(statement.tree):
        if not isinstance(node, pb.RangeVar) or node.relname not in TABLES or node.relname in ctes or node.schemaname:
            continue
        alias = "" if node.HasField("alias") else f" {node.relname}"
        edits.append((node.location, node.location + len(node.relname), f"all_{node.relname}{alias}"))
    data = statement.numbered.encode()
    for start, end, text in sorted(edits, reverse=True):
        data = data[:start] + text.encode() + data[end:]
    return data.decode()


def rewritten() -> Iterator[Case]:
    for case in cases():
        try:
            if not case.refused and not case.bug and "all_" in by_views(case.sql):
                yield case
        except InvalidSQL:
            continue


CASES = list(rewritten())


@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=[pytest.mark.slow] if part else []) for part in range(SLICES)]
)
def test_views_of_all_rows_are_as_good_as_the_tables(oracle: Oracle, part: int) -> None:
    answered = 0
    for case in CASES[part::SLICES]:
        if case.since > oracle.version:
            continue
        outcome = oracle.check(by_views(case.sql), case.params, ties=case.ties)
        if outcome.kind == "refused":
            assert outcome.why in ALLOWED, f"{case.place}\n{outcome}"
            continue
        assert outcome.kind == "same", f"{case.place}\n{outcome}"
        answered += outcome.plain.error is None
    assert answered > 0.8 * len(CASES) / SLICES


def test_random_statements_over_views_are_answered_as_by_one_postgresql(oracle: Oracle) -> None:
    print(f"SHARDPOOL_SEED={SEED} SHARDPOOL_STATEMENTS={STATEMENTS}")
    for number in range(STATEMENTS // 3):
        generator = Generator(f"{SEED}:{number}")
        sql = by_views(generator.spell(generator.statement()))
        outcome = oracle.check(sql, generator.params)
        assert outcome.kind == "same" or outcome.why in ALLOWED, f"SHARDPOOL_SEED={SEED}, statement {number}\n{outcome}"
