"""What the tables of a partition are: columns, constraints, indexes, triggers, rules, policies, views.

The target has what the recorded statements make. Somebody may have changed the source's tables behind their back: that
is noticed when the copy is complete, and again when nobody can change them any more.
"""

from __future__ import annotations

from typing import Any

from shardpool.ddl.features import Feature, read_features
from shardpool.errors import SchemaDrift
from shardpool.moves.layout import look_into
from shardpool.moves.move import Move
from shardpool.moves.record import MoveRecord

Definition = frozenset[Feature]


def compare_features(move: Move) -> None:
    """Raise `SchemaDrift` if the recorded statements have not made what the source has."""
    record = move.record
    here = read_definition(move.servers.source, record.keyspace, record.schema)
    compare_definitions(record, here, read_definition(move.servers.target, record.keyspace, record.incoming))


def read_definition(connection: Any, keyspace: str, schema: str) -> Definition:
    """Return what the tables of *schema* are, in the transaction of the connection."""
    look_into(connection, keyspace, schema)
    with connection.cursor() as cursor:
        return read_features(cursor, schema)


def unproven(definition: Definition) -> Definition:
    """Return the same as if no foreign key had been validated."""
    return frozenset(it._replace(definition=it.definition.removesuffix(" NOT VALID")) for it in definition)


def compare_definitions(record: MoveRecord, here: Definition, there: Definition) -> None:
    """Raise `SchemaDrift` unless source and target have the same tables."""
    if here != there:
        only_here = [f"{it.kind} {it.table}.{it.name} {it.definition}" for it in sorted(here - there)]
        only_there = [f"{it.kind} {it.table}.{it.name} {it.definition}" for it in sorted(there - here)]
        raise SchemaDrift(
            f"partition {record.partition} on {record.source} differs from the recorded schema: it has "
            f"{'; '.join(only_here) or 'nothing else'}, and it lacks {'; '.join(only_there) or 'nothing'}"
        )
