"""Decisions: what the spec says about each column, completed by what follows from foreign keys, and checked.

A column that refers to another one is changed as that one is, or joins would break. A unique column needs a rule that
keeps values apart. Every column of every table needs a decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shardpool.errors import JobRefused
from shardpool.jobs.constraints import Constraints
from shardpool.topology.tables import Tables

#: Rules under which different values stay different.
INJECTIVE = {"keep", "pseudonym"}


@dataclass(frozen=True)
class Decision:
    """What is done with a column: the rule's name, its settings, and the domain of its values. `follows` names the
    column it refers to, if the decision was taken there.
    """

    table: str
    column: str
    rule: str
    domain: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    follows: str = ""

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


Decisions = Mapping[tuple[str, str], Decision]


def decide(document: Mapping[str, Any], tables: Tables, constraints: Constraints) -> Decisions:
    """Return the decision of each column of the tables that are taken along.

    Raise `JobRefused` that lists all columns without a decision, and all decisions that would break a promise.
    """
    taken = {name: table for name, table in tables.items() if name not in document.get("skip_tables", ())}
    given, problems = _given(document, taken)
    found = _followed(given, constraints, taken)
    for name, table in taken.items():
        undecided = [column for column in table.insertable if (name, column) not in found]
        if undecided and document.get("undecided", "refuse") == "refuse":
            problems.append(f"{name}: no decision (a rule, or keep) for {', '.join(undecided)}")
        found |= {(name, column): Decision(name, column, "keep", "") for column in undecided}
    problems += _broken_keys(found, constraints, taken) + _broken_unique(found, constraints)
    if problems:
        raise JobRefused("the rules do not cover the tables: " + "; ".join(problems))
    return found


def _given(document: Mapping[str, Any], taken: Tables) -> tuple[dict[tuple[str, str], Decision], list[str]]:
    found: dict[tuple[str, str], Decision] = {}
    problems = []
    for name in document.get("keep_tables", ()):
        if name in taken:
            found.update({(name, column): Decision(name, column, "keep", "") for column in taken[name].insertable})
        else:
            problems.append(f"{name}: no such table")
    for name, columns in document.get("tables", {}).items():
        if name not in taken:
            problems.append(f"{name}: no such table")
            continue
        for column, entry in columns.items():
            if column not in taken[name].insertable:
                problems.append(f"{name}.{column}: no such column")
                continue
            settings = {"rule": entry} if isinstance(entry, str) else dict(entry)
            rule, domain = settings.pop("rule"), settings.pop("domain", f"{name}.{column}")
            found[name, column] = Decision(name, column, rule, "" if rule == "keep" else domain, settings)
    return found, problems


def _followed(
    given: Mapping[tuple[str, str], Decision], constraints: Constraints, taken: Tables
) -> dict[Any, Decision]:
    """Add the decisions that follow from foreign keys, along chains of them."""
    found = dict(given)
    changed = True
    while changed:
        changed = False
        for key in constraints.foreign_keys:
            if key.table not in taken:
                continue
            for column, parent in zip(key.columns, key.parent_columns, strict=True):
                source = found.get((key.parent, parent))
                if source is not None and (key.table, column) not in found:
                    found[key.table, column] = Decision(
                        key.table, column, source.rule, source.domain, source.settings, follows=str(source)
                    )
                    changed = True
    return found


def _broken_keys(found: Decisions, constraints: Constraints, taken: Tables) -> list[str]:
    problems = []
    for key in constraints.foreign_keys:
        if key.table not in taken:
            continue
        if key.parent not in taken:
            problems.append(f"{key.table} refers to {key.parent}, which is skipped")
            continue
        for column, parent in zip(key.columns, key.parent_columns, strict=True):
            child, source = found.get((key.table, column)), found.get((key.parent, parent))
            if child is None or source is None:
                continue  # a generated column, or one without a decision, which is told already
            if (child.rule, child.domain, child.settings) != (source.rule, source.domain, source.settings):
                problems.append(
                    f"{child} refers to {source}, so it is changed like that: {source.rule} in domain "
                    f"{source.domain or '-'}, not {child.rule} in {child.domain or '-'}"
                )
    return problems


def _broken_unique(found: Decisions, constraints: Constraints) -> list[str]:
    problems = []
    for table, columns in constraints.unique:
        for column in sorted(columns):
            decision = found.get((table, column))
            if decision is not None and decision.rule not in INJECTIVE and decision.rule != "null":
                problems.append(f"{decision} is part of a unique key, and {decision.rule} does not keep values apart")
    return problems


def by_domain(found: Decisions) -> dict[str, list[Decision]]:
    """Return domain -> its columns."""
    domains: dict[str, list[Decision]] = {}
    for decision in found.values():
        if decision.domain:
            domains.setdefault(decision.domain, []).append(decision)
    return domains
