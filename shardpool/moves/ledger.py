"""How far the copy is: a table on the target, written in the transactions that do what it says.

So a process that takes a move over goes on where the last one was, whatever that one had told the catalog.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shardpool.moves.move import Move
from shardpool.moves.record import MoveRecord
from shardpool.topology.names import quote


def create_ledger(move: Move) -> None:
    """Create the ledger, in the transaction that the target's connection is in."""
    record, target = move.record, move.servers.target
    move.journal.note_object(record, record.target, record.ledger)
    create_ledger_table(target, record)


def create_ledger_table(connection: Any, record: MoveRecord) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {quote(record.ledger)}")
        cursor.execute(f"CREATE TABLE {_table(record)} (what text PRIMARY KEY, detail jsonb NOT NULL)")


def note(move: Move, what: str, detail: Mapping[str, Any]) -> None:
    """Write that something is done, in the transaction that does it."""
    note_in(move.servers.target, move.record, what, detail)


def note_in(connection: Any, record: MoveRecord, what: str, detail: Mapping[str, Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {_table(record)} VALUES (%s, %s)", (what, json.dumps(dict(detail))))


def read_ledger(connection: Any, record: MoveRecord) -> dict[str, Any] | None:
    """Return what is done, or None if there is no ledger. The connection is in a transaction afterwards."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (_table(record),))
        if not cursor.fetchone()[0]:
            return None
        cursor.execute(f"SELECT what, detail FROM {_table(record)}")
        return dict(cursor.fetchall())


def _table(record: MoveRecord) -> str:
    return f"{quote(record.ledger)}.done"
