"""The log of statements, ``shardpool_catalog.ddl``: a statement is 'running' until all shards have it, then 'done'."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from shardpool.catalog import Catalog
from shardpool.ddl.statement import DdlStatement, Effect
from shardpool.topology.tables import Reference, Sharded, TableKind


@dataclass(frozen=True)
class Recorded:
    """A statement of the log. Ids grow in the order in which statements run."""

    id: int
    statement: DdlStatement


def read_log(catalog: Catalog, state: str) -> list[Recorded]:
    """Return the keyspace's statements in *state*, 'running' or 'done', in order."""
    query = text(
        "SELECT id, statement, scope, after_copy, tables FROM shardpool_catalog.ddl "
        "WHERE keyspace = :keyspace AND state = :state ORDER BY id"
    )
    with catalog.begin() as connection:
        rows = connection.execute(query, {"keyspace": catalog.keyspace, "state": state}).all()
    return [Recorded(row.id, _statement(row)) for row in rows]


def record(catalog: Catalog, statements: Sequence[DdlStatement]) -> list[Recorded]:
    """Write statements as 'running', before any shard is touched."""
    query = text(
        "INSERT INTO shardpool_catalog.ddl (keyspace, statement, scope, after_copy, state, tables) "
        "VALUES (:keyspace, :statement, :scope, :after_copy, 'running', CAST(:tables AS jsonb)) RETURNING id"
    )
    recorded = []
    with catalog.begin() as connection:
        for it in statements:
            values = {
                "keyspace": catalog.keyspace,
                "statement": it.text,
                "scope": it.scope,
                "after_copy": it.after_copy,
                "tables": json.dumps(_details(it)),
            }
            recorded.append(Recorded(int(connection.execute(query, values).scalar_one()), it))
    return recorded


def forget(catalog: Catalog, batch: Iterable[Recorded]) -> None:
    """Delete statements that were undone everywhere."""
    query = text("DELETE FROM shardpool_catalog.ddl WHERE id = ANY(:ids) AND state = 'running'")
    with catalog.begin() as connection:
        connection.execute(query, {"ids": [it.id for it in batch]})


def count_running(connection: Connection, batch: Iterable[Recorded]) -> int:
    """Return how many of *batch* are still 'running', and lock them until the transaction ends."""
    query = text("SELECT id FROM shardpool_catalog.ddl WHERE id = ANY(:ids) AND state = 'running' FOR UPDATE")
    return len(connection.execute(query, {"ids": [it.id for it in batch]}).all())


def mark_done(connection: Connection, batch: Iterable[Recorded]) -> None:
    query = text("UPDATE shardpool_catalog.ddl SET state = 'done' WHERE id = ANY(:ids)")
    connection.execute(query, {"ids": [it.id for it in batch]})


def bring_forward(connection: Connection, ids: Iterable[int]) -> None:
    """From now on, repeat these statements before rows are copied: later ones depend on them."""
    query = text("UPDATE shardpool_catalog.ddl SET after_copy = false WHERE id = ANY(:ids)")
    connection.execute(query, {"ids": list(ids)})


def add_effects(connection: Connection, recorded: Recorded, effects: Sequence[Effect]) -> None:
    """Add to a statement what it turned out to do: a dropped column takes its indexes along."""
    query = text("UPDATE shardpool_catalog.ddl SET tables = CAST(:tables AS jsonb) WHERE id = :id")
    details = _details(recorded.statement)
    details["effects"] += [_effect_to_json(it) for it in effects]
    connection.execute(query, {"tables": json.dumps(details), "id": recorded.id})


def running_move(catalog: Catalog) -> tuple[int, str, str] | None:
    """Return (partition, source, target) of a move that is under way."""
    query = text(
        "SELECT partition, source, target FROM shardpool_catalog.move WHERE keyspace = :keyspace AND state = 'running' "
        "ORDER BY id LIMIT 1"
    )
    with catalog.begin() as connection:
        row = connection.execute(query, {"keyspace": catalog.keyspace}).first()
    return (row.partition, row.source, row.target) if row else None


def unique_build(catalog: Catalog) -> tuple[str, str] | None:
    """Return (table, column) of what is being made unique."""
    with catalog.begin() as connection:
        return unique_build_in(connection, catalog.keyspace)


def unique_build_in(connection: Connection, keyspace: str) -> tuple[str, str] | None:
    """As `unique_build`, in a transaction of the catalog."""
    query = text("SELECT table_name, column_name FROM shardpool_catalog.unique_build WHERE keyspace = :keyspace")
    row = connection.execute(query, {"keyspace": keyspace}).first()
    return (row.table_name, row.column_name) if row else None


def moving_partitions(catalog: Catalog) -> frozenset[int]:
    """Return the partitions that a move, split or merge is copying or has yet to clean up after."""
    query = text(
        "SELECT partition FROM shardpool_catalog.move WHERE keyspace = :keyspace AND state = 'running' UNION "
        "SELECT (jsonb_array_elements(coalesce(detail->'sources', '[]') || coalesce(detail->'targets', '[]'))"
        "->>'partition')::int FROM shardpool_catalog.move WHERE keyspace = :keyspace AND state = 'running'"
    )
    with catalog.begin() as connection:
        return frozenset(connection.execute(query, {"keyspace": catalog.keyspace}).scalars())


# -- JSON -----------------------------------------------------------------------------------------------------------


def _details(statement: DdlStatement) -> dict[str, Any]:
    return {
        "source": statement.source,
        "part": statement.part,
        "tables": {name: _kind_to_json(kind) for name, kind in statement.tables.items()},
        "effects": [_effect_to_json(it) for it in statement.effects],
    }


def _statement(row: Any) -> DdlStatement:
    details = row.tables
    return DdlStatement(
        text=row.statement,
        scope=row.scope,
        after_copy=row.after_copy,
        source=details.get("source", ""),
        part=details.get("part", 0),
        tables={name: _kind_from_json(kind) for name, kind in details.get("tables", {}).items()},
        effects=tuple(Effect(*it) for it in details.get("effects", ())),
    )


def _effect_to_json(effect: Effect) -> list[str]:
    return [effect.verb, effect.what, effect.name, effect.table, effect.new_name]


def _kind_to_json(kind: TableKind | None) -> dict[str, Any] | None:
    if kind is None:
        return None
    if not isinstance(kind, Sharded):
        return {"reference": True}
    return {"key": list(kind.columns), "unique": dict(kind.unique)}


def _kind_from_json(kind: dict[str, Any] | None) -> TableKind | None:
    if kind is None:
        return None
    if "key" not in kind:
        return Reference()
    return Sharded(kind["key"][0] if len(kind["key"]) == 1 else tuple(kind["key"]), kind.get("unique", {}))
