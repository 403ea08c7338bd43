"""Table definitions as the catalog stores them: JSON with the fields of `Table` and `Column`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from shardpool.topology.key import KeyType
from shardpool.topology.tables import Column, Table


def table_to_json(table: Table) -> dict[str, Any]:
    return {
        "columns": [asdict(column) for column in table.columns],
        "primary_key": list(table.primary_key),
        "key": list(table.key),
        "key_types": [key_type.value for key_type in table.key_types],
        "unique": dict(table.unique),
        "building": dict(table.building),
    }


def table_from_json(name: str, definition: dict[str, Any]) -> Table:
    return Table(
        name=name,
        columns=tuple(Column(**column) for column in definition["columns"]),
        primary_key=tuple(definition["primary_key"]),
        key=tuple(definition["key"]),
        key_types=tuple(KeyType(value) for value in definition["key_types"]),
        unique=tuple(sorted(definition.get("unique", {}).items())),
        building=tuple(sorted(definition.get("building", {}).items())),
    )
