"""The transform: rows with their columns changed by the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from shardpool.bulk.chunk import Rejected, Rows
from shardpool.jobs.anonymise.rules import Rule
from shardpool.jobs.anonymise.values import BadValue


@dataclass(frozen=True)
class TableRules:
    """The rules of a table's columns, and the columns that tell its rows apart."""

    rules: Mapping[str, Rule]
    key: Sequence[str]


class Anonymise:
    """Applies the rules of all tables. Thread-safe."""

    def __init__(self, tables: Mapping[str, TableRules]) -> None:
        self._tables = tables

    def __call__(self, rows: Rows) -> tuple[list[Rows], list[Rejected]]:
        table = self._tables[rows.table]
        if not table.rules:
            return [rows], []
        fields = [record.split(b"\t") for record in rows.records]
        try:
            return [replace(rows, records=self._changed(table, rows.columns, fields))], []
        except (BadValue, ValueError):
            return self._one_by_one(table, rows, fields)

    def _changed(self, table: TableRules, columns: Sequence[str], fields: list[list[bytes]]) -> list[bytes]:
        if not fields:
            return []
        turned = list(zip(*fields, strict=True))
        places = [columns.index(name) for name in table.key]
        keys = [b"\t".join(row[place] for place in places) for row in fields]
        changed: list[Sequence[bytes]] = list(turned)
        for name, rule in table.rules.items():
            place = columns.index(name)
            try:
                changed[place] = rule.apply(turned[place], keys)
            except (BadValue, ValueError) as error:
                reason = str(error) if isinstance(error, BadValue) else "a value that the rule cannot read"
                raise BadValue(f"column {name}: {reason}") from error
        return [b"\t".join(row) for row in zip(*changed, strict=True)]

    def _one_by_one(
        self, table: TableRules, rows: Rows, fields: list[list[bytes]]
    ) -> tuple[list[Rows], list[Rejected]]:
        """Find the rows at fault, and change the others together."""
        rejected, good = [], []
        for index, row in enumerate(fields):
            try:
                # Twice, as some rules need another row.
                self._changed(table, rows.columns, [row, row])
                good.append(index)
            except BadValue as error:
                rejected.append(Rejected(rows.describe(index), str(error)))
        try:
            records = self._changed(table, rows.columns, [fields[index] for index in good])
        except BadValue as error:
            rejected += [Rejected(rows.describe(index), str(error)) for index in good]
            good, records = [], []
        return [replace(rows, records=records, origins=good)], rejected
