"""The transform: rows with their columns changed by the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from shardpool.bulk.chunk import Record, Rejected, Rows
from shardpool.bulk.values import BadValue
from shardpool.jobs.anonymise.rules import Rule


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
        try:
            return [replace(rows, records=self._changed(table, rows.columns, rows.records))], []
        except (BadValue, ValueError):
            return self._one_by_one(table, rows)

    def _changed(self, table: TableRules, columns: Sequence[str], records: Sequence[Record]) -> list[Record]:
        if not records:
            return []
        # A tab in a value is escaped: so all rows are cut at once, and every nth field is one column.
        fields, width = b"\t".join(records).split(b"\t"), len(columns)
        turned = [fields[place::width] for place in range(width)]
        own = [turned[columns.index(name)] for name in table.key]
        keys = list(map(b"\t".join, zip(*own, strict=True))) if len(own) > 1 else own[0]
        changed: list[Sequence[bytes]] = list(turned)
        for name, rule in table.rules.items():
            place = columns.index(name)
            try:
                changed[place] = rule.apply(turned[place], keys)
            except (BadValue, ValueError) as error:
                reason = str(error) if isinstance(error, BadValue) else "a value that the rule cannot read"
                raise BadValue(f"column {name}: {reason}") from error
        return list(map(b"\t".join, zip(*changed, strict=True)))

    def _one_by_one(self, table: TableRules, rows: Rows) -> tuple[list[Rows], list[Rejected]]:
        """Find the rows at fault, and change the others together."""
        rejected, good = [], []
        for index, row in enumerate(rows.records):
            try:
                # Twice, as some rules need another row.
                self._changed(table, rows.columns, [row, row])
                good.append(index)
            except BadValue as error:
                rejected.append(Rejected(rows.describe(index), str(error)))
        try:
            records = self._changed(table, rows.columns, [rows.records[index] for index in good])
        except BadValue as error:
            rejected += [Rejected(rows.describe(index), str(error)) for index in good]
            good, records = [], []
        return [replace(rows, records=records, origins=good)], rejected
