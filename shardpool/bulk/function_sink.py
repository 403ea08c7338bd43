"""A function as a sink: it is called with the rows of a chunk, at least once, and the chunk entered in the ledger."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shardpool.bulk.chunk import Rejected, Rows, Tally, Ticket
from shardpool.bulk.ledger import enter_alone, refuse_entered, written
from shardpool.bulk.python_rows import python_rows
from shardpool.catalog import Catalog


class FunctionSink:
    """Calls *function* with a list of mappings: table, op (``copy``) and row."""

    def __init__(self, function: Callable[[list[Mapping[str, Any]]], object], catalog: Catalog) -> None:
        self._function, self._catalog = function, catalog

    def prepare(self, job: uuid.UUID) -> None:
        """Nothing is ever left half done."""

    def done(self, job: uuid.UUID) -> dict[int, Tally]:
        return written(self._catalog, job)

    def settle(self, ticket: Ticket) -> None:
        """A chunk of unknown outcome is told again."""

    def finish(self, job: uuid.UUID) -> None:
        """Nothing is ever left half done."""

    def forget(self, job: uuid.UUID) -> None:
        """The ledger is the catalog's, and stays."""

    def write(self, ticket: Ticket, batches: Sequence[Rows], rejects: Sequence[Rejected]) -> Tally:
        refuse_entered(self._catalog, ticket)
        tally = Tally(rejected=len(rejects), rejects=tuple(rejects))
        for batch in batches:
            rows = python_rows(batch.types, batch.records)
            self._function([{"table": batch.table, "op": "copy", "row": row} for row in rows])
            tally = Tally(tally.rows + len(batch.records), tally.bytes + sum(map(len, batch.records)), tally.rejected)
        enter_alone(self._catalog, ticket, tally)
        return tally
