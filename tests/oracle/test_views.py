"""Statements of the corpus with views in the places of their tables are answered as one PostgreSQL answers them."""

from __future__ import annotations

from collections.abc import Iterator

import postgast
import pytest
from postgast import pg_query_pb2 as pb

from shardpool.errors import InvalidSQL
from shardpool.planner.statement import from_text
from tests.oracle.corpus import Case, cases
from tests.oracle.oracle import Oracle

#: Views of all their rows are called all_orders, ...
TABLES = ("customers", "orders", "items", "country")
#: What a view does not have: row locks over groups, rows as values, samples.
ALLOWED = {"SP104", "SP141", "SP143"}
SLICES = 12


def by_views(sql: str) -> str:
    """Name a view wherever a table is read, under the table's name."""
    ctes = {node.ctename for _, node in postgast.walk(from_text(sql).tree) if isinstance(node, pb.CommonTableExpr)}
    data = sql.encode()
    for node in sorted(_relations(sql), key=lambda node: -node.location):
        if node.relname in TABLES and node.relname not in ctes and not node.schemaname:
            end = node.location + len(node.relname)
            alias = "" if node.HasField("alias") else f" {node.relname}"
            data = data[: node.location] + f"all_{node.relname}{alias}".encode() + data[end:]
    return data.decode()


def _relations(sql: str) -> Iterator[pb.RangeVar]:
    statement = from_text(sql)
    # Only where parameters do not move positions.
    if statement.numbered == sql:
        for _, node in postgast.walk(statement.tree):
            if isinstance(node, pb.RangeVar):
                yield node


def rewritten() -> Iterator[Case]:
    for case in cases():
        try:
            if not case.refused and not case.bug and by_views(case.sql) != case.sql:
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
