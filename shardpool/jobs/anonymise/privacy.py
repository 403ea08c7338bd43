"""How well a person hides among others at the destination: k-anonymity and l-diversity, over all shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shardpool.errors import JobRefused
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.tables import Tables


def measure(router: Router, table: str, quasi: Sequence[str], sensitive: str | None) -> tuple[int, int]:
    """Return the size of the smallest group of rows that are alike in *quasi*, and the smallest number of different
    *sensitive* values in a group; (0, 0) for a table without rows.
    """
    groups = ", ".join(map(quote, quasi))
    different = f"count(DISTINCT {quote(sensitive)})" if sensitive else "0"
    found = router.query(
        f"SELECT coalesce(min(alike), 0), coalesce(min(different), 0) FROM "
        f"(SELECT count(*) AS alike, {different} AS different FROM {quote(table)} GROUP BY {groups}) AS groups"
    ).one()
    smallest, least = map(int, tuple(found))
    return smallest, least


def check_columns(wanted: Sequence[Mapping[str, Any]], tables: Tables) -> None:
    """Raise `JobRefused` if a wish names a column that is not there."""
    for wish in wanted:
        table = tables.get(wish["table"])
        for column in (*wish["quasi"], *([wish["sensitive"]] if "sensitive" in wish else [])):
            if table is None or table.column(column) is None:
                raise JobRefused(f"[[privacy]] names {wish['table']}.{column}, which does not exist")


def check_privacy(router: Router, wanted: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what was measured for each wish. Raise `JobRefused` if one is not fulfilled."""
    measured, problems = [], []
    for wish in wanted:
        k, diversity = measure(router, wish["table"], wish["quasi"], wish.get("sensitive"))
        measured.append(
            {"table": wish["table"], "quasi": wish["quasi"], "k": k, "l": diversity if "l" in wish else None}
        )
        names = f"{wish['table']} ({', '.join(wish['quasi'])})"
        if k < wish["k"]:
            problems.append(f"{names}: a group of {k}, where k is to be {wish['k']}")
        if diversity < wish.get("l", 0):
            problems.append(
                f"{names}: a group with {diversity} values of {wish['sensitive']}, where l is to be {wish['l']}"
            )
    if problems:
        raise JobRefused("the copy is not anonymous enough, do not hand it on: " + "; ".join(problems))
    return measured
