"""Plans that are carried out, in the catalog."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import text

from shardpool.catalog import Catalog
from shardpool.moves.plan import PlannedMove


class Runs:
    """The runs of one keyspace: at most one is under way. Methods raise `CatalogUnavailable`."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def begin(self, moves: Sequence[PlannedMove]) -> int:
        """Enter a plan, in the place of one that was not finished; return its number."""
        replaced = (
            "UPDATE shardpool_catalog.rebalance SET state = 'replaced' WHERE keyspace = :keyspace AND state = 'running'"
        )
        insert = (
            "INSERT INTO shardpool_catalog.rebalance (keyspace, moves) VALUES (:keyspace, CAST(:moves AS jsonb)) "
            "RETURNING id"
        )
        values = {"keyspace": self._catalog.keyspace, "moves": json.dumps([asdict(planned) for planned in moves])}
        with self._catalog.begin() as connection:
            connection.execute(text(replaced), values)
            return int(connection.execute(text(insert), values).scalar_one())

    def unfinished(self) -> tuple[int, list[PlannedMove]] | None:
        """Return number and moves of the run that was begun and not ended."""
        query = "SELECT id, moves FROM shardpool_catalog.rebalance WHERE keyspace = :keyspace AND state = 'running'"
        with self._catalog.begin() as connection:
            row = connection.execute(text(query), {"keyspace": self._catalog.keyspace}).first()
        return None if row is None else (row.id, [PlannedMove(**planned) for planned in row.moves])

    def end(self, number: int) -> None:
        """Note that all moves of a run are done."""
        query = "UPDATE shardpool_catalog.rebalance SET state = 'done' WHERE id = :id AND state = 'running'"
        with self._catalog.begin() as connection:
            connection.execute(text(query), {"id": number})
