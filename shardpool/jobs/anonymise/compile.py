"""From decisions to rules, each checked against the type of its column."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from shardpool.bulk.values import NULL, to_field
from shardpool.errors import JobRefused
from shardpool.jobs.anonymise.change import Fake, Mask, Period, Prefix, Scrub, Step, fake_pool
from shardpool.jobs.anonymise.decisions import Decision, Decisions, by_domain
from shardpool.jobs.anonymise.pseudonym import (
    MAIL_DOMAIN,
    SHORTEST_TOKEN,
    TOKEN,
    WIDTHS,
    ByteaPseudonym,
    Permutation,
    Token,
    UuidPseudonym,
)
from shardpool.jobs.anonymise.rules import Constant, Noise, PerValue, Rule, Shuffle
from shardpool.jobs.anonymise.secret import Keyed
from shardpool.jobs.anonymise.transform import TableRules
from shardpool.topology.tables import Column, Tables

TEXTS = {"text", "character varying", "character"}
NUMBERS = {"smallint", "integer", "bigint", "numeric", "real", "double precision"}
TIMES = {"date", "timestamp without time zone", "timestamp with time zone"}

_LENGTH = re.compile(r"character(?: varying)?\((\d+)\)")


def compile_rules(decisions: Decisions, tables: Tables, keyed: Keyed, locale: str) -> dict[str, TableRules]:
    """Return the rules of each table. Raise `JobRefused` for a rule that does not fit its column."""
    compiler = _Compiler(tables, keyed, locale, by_domain(decisions))
    names = dict.fromkeys(decision.table for decision in decisions.values())
    found = {}
    for name in names:
        rules = {
            decision.column: compiler.rule(decision)
            for decision in decisions.values()
            if decision.table == name and decision.rule != "keep"
        }
        table = tables[name]
        found[name] = TableRules(rules, table.primary_key or table.insertable)
    return found


def length_of(column: Column) -> int | None:
    """Return how many characters a column takes; None if there is no limit."""
    match = _LENGTH.fullmatch(column.type)
    return int(match[1]) if match else None


class _Compiler:
    def __init__(self, tables: Tables, keyed: Keyed, locale: str, domains: Mapping[str, list[Decision]]) -> None:
        self._tables, self._keyed, self._locale, self._domains = tables, keyed, locale, domains

    def rule(self, decision: Decision) -> Rule:
        column = self._column(decision)
        make: Callable[[Decision, Column, Keyed], Rule] = getattr(self, f"_{decision.rule}")
        return make(decision, column, self._keyed.domain(decision.domain))

    def _column(self, decision: Decision) -> Column:
        column = self._tables[decision.table].column(decision.column)
        assert column is not None
        return column

    def _pseudonym(self, decision: Decision, column: Column, keyed: Keyed) -> Rule:
        """All columns of a domain decide what fits into the smallest."""
        columns = [self._column(it) for it in self._domains[decision.domain] if it.rule == "pseudonym"]
        types = {it.base_type for it in columns}
        if types <= set(WIDTHS):
            return PerValue(Permutation(keyed, min(WIDTHS[it] for it in types)))
        if types == {"uuid"}:
            return PerValue(UuidPseudonym(keyed))
        if types == {"bytea"}:
            return PerValue(ByteaPseudonym(keyed))
        if not types <= TEXTS:
            raise _misfit(decision, column, "integers, texts, uuids or bytea, of one kind in a domain")
        mail = decision.settings.get("as") == "email"
        room = min([TOKEN, *((length_of(it) or 1000) - (len(MAIL_DOMAIN) if mail else 0) for it in columns)])
        if room < SHORTEST_TOKEN:
            raise _misfit(decision, column, f"room for {SHORTEST_TOKEN} characters, or two could get the same")
        return PerValue(Token(keyed, room, mail))

    def _fake(self, decision: Decision, column: Column, keyed: Keyed) -> Rule:
        _check_type(decision, column, TEXTS)
        kind = decision.settings.get("kind", "name")
        locale = decision.settings.get("locale", self._locale)
        return PerValue(Fake(keyed, fake_pool(kind, locale, self._keyed, length_of(column))))

    def _mask(self, decision: Decision, column: Column, keyed: Keyed) -> Rule:
        _check_type(decision, column, TEXTS)
        settings = decision.settings
        return PerValue(Mask(keyed, settings.get("keep_first", 0), settings.get("keep_last", 0), settings.get("with")))

    def _generalise(self, decision: Decision, column: Column, keyed: Keyed) -> Rule:
        settings = decision.settings
        if "step" in settings:
            _check_type(decision, column, NUMBERS)
            return PerValue(Step(Decimal(str(settings["step"]))))
        if "to" in settings:
            _check_type(decision, column, TIMES)
            return PerValue(Period(settings["to"]))
        _check_type(decision, column, TEXTS)
        return PerValue(Prefix(settings["keep_first"]))

    def _noise(self, decision: Decision, column: Column, keyed: Keyed) -> Rule:
        settings = decision.settings
        if "days" in settings:
            _check_type(decision, column, TIMES)
            return Noise(keyed, days=settings["days"])
        _check_type(decision, column, NUMBERS)
        if "percent" in settings:
            return Noise(keyed, percent=Decimal(str(settings["percent"])))
        return Noise(keyed, amount=Decimal(str(settings["amount"])))

    def _shuffle(self, decision: Decision, column: Column, keyed: Keyed) -> Rule:
        return Shuffle(keyed, nullable=not column.not_null)

    def _null(self, decision: Decision, column: Column, keyed: Keyed) -> Rule:
        if column.not_null:
            raise _misfit(decision, column, "a column that may be NULL")
        return Constant(NULL)

    def _constant(self, decision: Decision, column: Column, keyed: Keyed) -> Rule:
        value: Any = decision.settings["value"]
        return Constant(to_field(("t" if value else "f") if isinstance(value, bool) else str(value)))

    def _scrub(self, decision: Decision, column: Column, keyed: Keyed) -> Rule:
        _check_type(decision, column, TEXTS | {"json", "jsonb"})
        return PerValue(Scrub(self._keyed.domain("scrub")))


def _check_type(decision: Decision, column: Column, types: set[str]) -> None:
    if column.base_type not in types:
        raise _misfit(decision, column, "one of the types " + ", ".join(sorted(types)))


def _misfit(decision: Decision, column: Column, expected: str) -> JobRefused:
    return JobRefused(f"{decision}: the rule {decision.rule} needs {expected}; the column is {column.type}")
