"""A keyspace as a sink: the rows of a chunk to all their partitions, together with the ledger's entry, or not at all.

The chunk's transactions on the shards are prepared; the transaction in the catalog that enters the chunk in the ledger
is the decision to commit them. So there is one truth, whatever dies when, and wherever partitions move.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import psycopg2

from shardpool.bulk.binary import BinaryPlaces, NeedsText, copy_in
from shardpool.bulk.chunk import Record, Rejected, Rows, Tally, Ticket
from shardpool.bulk.decision import load_prefix, resolve_loads
from shardpool.bulk.fields import Fields
from shardpool.bulk.isolate import Refused, copy_good_rows, is_fault_of_data, reason_of
from shardpool.bulk.keyspace_source import Keyspace
from shardpool.bulk.layout import COPY_TEXT
from shardpool.bulk.ledger import forget_decisions, refuse_entered, written
from shardpool.bulk.records import Block
from shardpool.bulk.reserve import Reservations, reservations_of
from shardpool.bulk.route import RecordRouter
from shardpool.bulk.together import Together, chunk_label, job_label
from shardpool.bulk.translate import refused
from shardpool.errors import BadRow, BadRows, UnknownTable
from shardpool.planner.refusals import refuse
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Placement, Topology
from shardpool.topology.tables import Table

#: Writes records by one statement: (connection, statements before it, table in full, columns, records, may be left
#: out) -> left out.
Writer = Callable[[object, str, str, Sequence[str], Sequence[Record], int], list[Refused]]

_QUOTED = re.compile(r'"[^"]*"')


def insert(
    connection: object, before: str, relation: str, columns: Sequence[str], records: Sequence[Record], limit: int
) -> list[Refused]:
    """Write by COPY."""
    copy = f"COPY {relation} ({', '.join(map(quote, columns))}) FROM STDIN"
    return copy_good_rows(connection, before, copy, records, limit)


@dataclass(frozen=True)
class _Part:
    """The rows of a chunk that go to one schema; `indexes` are theirs in the batch, if they are text."""

    shards: Sequence[str]
    schema: str
    path: str
    records: Sequence[Record]
    indexes: Sequence[int] = ()


class KeyspaceSink:
    """Writes into the tables of *keyspace*, by `insert` or another *writer*."""

    def __init__(self, keyspace: Keyspace, writer: Writer = insert) -> None:
        self._keyspace = keyspace
        self._writer = writer

    def prepare(self, job: uuid.UUID) -> None:
        self._resolve(job_label(job))

    def done(self, job: uuid.UUID) -> dict[int, Tally]:
        return written(self._keyspace.catalog, job)

    def finish(self, job: uuid.UUID) -> None:
        """Remove what is needed only while the job runs: its decisions. The ledger stays."""
        self._resolve(job_label(job))
        forget_decisions(self._keyspace.catalog, load_prefix(self._keyspace.catalog.keyspace, job_label(job)))

    def forget(self, job: uuid.UUID) -> None:
        """The ledger is the catalog's, and stays."""

    def settle(self, ticket: Ticket) -> None:
        """Finish what an attempt at this chunk has left prepared."""
        self._resolve(chunk_label(ticket))

    def write(self, ticket: Ticket, batches: Sequence[Rows], rejects: Sequence[Rejected]) -> Tally:
        refuse_entered(self._keyspace.catalog, ticket)
        try:
            try:
                return self._write(ticket, batches, rejects)
            except NeedsText:
                return self._write(ticket, [it.as_text() if it.as_text else it for it in batches], rejects)
        except BadRows:
            # Are they in the way of themselves? Another attempt may have committed them just now.
            refuse_entered(self._keyspace.catalog, ticket)
            raise

    def _write(self, ticket: Ticket, batches: Sequence[Rows], rejects: Sequence[Rejected]) -> Tally:
        left_out = list(rejects)
        topology = self._keyspace.topology
        with Together(self._keyspace.engines, self._keyspace.catalog, ticket) as together:
            rows = size = 0
            for batch in batches:
                table = topology.tables.get(batch.table)
                if table is None:
                    raise UnknownTable(batch.table, topology.keyspace, list(topology.tables))
                reserving = self._reservations(topology, table, batch)
                if reserving and batch.as_text is not None:
                    raise NeedsText
                written: list[int] = []
                for part in self._split(topology, table, batch, ticket, left_out):
                    refused_rows = self._write_part(together, batch, part, ticket.may_reject - len(left_out))
                    left_out += [Rejected(batch.source_of(part.indexes[at]), reason) for at, reason in refused_rows]
                    rows += len(part.records) - len(refused_rows)
                    gone = {at for at, _ in refused_rows}
                    written += [index for at, index in enumerate(part.indexes) if at not in gone]
                for reservations in reserving:
                    self._reserve(together, topology, reservations, batch, sorted(written))
                size += sum(map(len, batch.records))
            tally = Tally(rows, size, len(left_out), tuple(left_out))
            together.commit(tally)
        return tally

    def _resolve(self, label: str) -> None:
        keyspace = self._keyspace
        resolve_loads(keyspace.catalog, keyspace.engines, list(keyspace.topology.shard_map.shards), 0.0, label)

    def _split(
        self, topology: Topology, table: Table, batch: Rows, ticket: Ticket, left_out: list[Rejected]
    ) -> list[_Part]:
        if not table.sharded:
            path = f"SET LOCAL search_path TO {quote(topology.keyspace)}, public;"
            every = batch.records
            shards = sorted(topology.shard_map.shards)
            return [_Part(shards, topology.keyspace, path, every, range(len(every)))] if every else []
        # Shard by shard, so that each server's work is together.
        placed = zip(topology.shard_map.placements, _grouped(topology, table, batch, ticket, left_out), strict=True)
        parts = [_part(topology, it, records, indexes) for it, (records, indexes) in placed if records]
        return sorted(parts, key=lambda part: part.shards[0])

    def _reservations(self, topology: Topology, table: Table, batch: Rows) -> list[Reservations]:
        """How the values of unique columns are kept; only rows that are new can be."""
        if table.unique and self._writer is not insert:
            raise refuse("SP139", f"{table.name} (rows that may be there are written over)")
        return reservations_of(self._keyspace.engines, topology, table, batch.columns, COPY_TEXT, batch.table)

    def _reserve(
        self, together: Together, topology: Topology, reservations: Reservations, batch: Rows, written: Sequence[int]
    ) -> None:
        """Write the reservations of the rows *written*. A value that is there already cannot be left out: its row is
        written. Raise `BadRows` for it."""
        entries = reservations.of(Block([batch.records[index] for index in written], 0))
        assert entries.starts is not None
        by_place: dict[int, list[int]] = {}
        for at, place in enumerate(entries.places):
            by_place.setdefault(place, []).append(at)
        for place, found in sorted(by_place.items(), key=lambda it: topology.shard_map.placements[it[0]].shard):
            indexes = [written[entries.starts[at]] for at in found]
            records = [entries.records[at] for at in found]
            part = _part(topology, topology.shard_map.placements[place], records, range(len(found)))
            rows = replace(
                batch,
                table=reservations.table.name,
                columns=reservations.columns,
                records=records,
                origins=indexes if batch.origins is None else [batch.origins[index] for index in indexes],
            )
            self._write_part(together, rows, part, 0)

    def _write_part(self, together: Together, batch: Rows, part: _Part, limit: int) -> list[Refused]:
        relation = f"{quote(part.schema)}.{quote(batch.table)}"
        found: list[Refused] = []
        for shard in part.shards:
            connection = together.lane(shard).connection
            try:
                if batch.as_text is None:
                    found = self._writer(connection, part.path, relation, batch.columns, part.records, limit)
                else:
                    with connection.cursor() as cursor:
                        copy_in(cursor, part.path, relation, batch.columns, part.records)
            except psycopg2.Error as error:
                if batch.as_text is not None and is_fault_of_data(error) and not connection.closed:
                    raise NeedsText from error
                if is_fault_of_data(error) and not connection.closed and hasattr(error, "row"):
                    index = part.indexes[error.row]
                    raise BadRows(batch.source_of(index), reason_of(error), limit) from error
                raise refused(error, shard, gone=bool(connection.closed)) from error
        return found


def _part(topology: Topology, placement: Placement, records: Sequence[Record], indexes: Sequence[int]) -> _Part:
    partition = placement.partition
    return _Part([placement.shard], partition.schema, topology.search_paths[partition.id], records, indexes)


def _grouped(
    topology: Topology, table: Table, batch: Rows, ticket: Ticket, left_out: list[Rejected]
) -> list[tuple[list[Record], list[int]]]:
    """Return the rows for each placement, and their indexes if they are text."""
    groups: list[tuple[list[Record], list[int]]] = [([], []) for _ in topology.shard_map.placements]
    take = [records.append for records, _ in groups]
    if batch.as_text is not None:
        places = BinaryPlaces(table, _lows(topology), batch.types).of(batch.records)
        for place, record in zip(places, batch.records, strict=True):
            take[place](record)
        return groups
    note, every = [indexes.append for _, indexes in groups], batch.records
    for index, place in zip(*_places(topology, table, batch, ticket, left_out), strict=True):
        take[place](every[index])
        note[place](index)
    return groups


def _lows(topology: Topology) -> list[int]:
    return [placement.partition.low for placement in topology.shard_map.placements]


def _places(
    topology: Topology, table: Table, batch: Rows, ticket: Ticket, left_out: list[Rejected]
) -> tuple[Sequence[int], Sequence[int]]:
    """Return the indexes of rows, and of their partitions; rows without a valid key are added to *left_out*."""
    router = RecordRouter(table, _lows(topology), COPY_TEXT, Fields(COPY_TEXT), batch.columns, batch.table)
    indexes = list(range(len(batch.records)))
    block = Block(list(batch.records), 0)
    while indexes:
        try:
            router.route(block)
            break
        except BadRow as error:
            del block.records[error.line]
            index = indexes.pop(error.line)
            reason = _QUOTED.sub("the value", error.reason)
            if len(left_out) >= ticket.may_reject:
                raise BadRows(batch.source_of(index), reason, ticket.may_reject) from error
            left_out.append(Rejected(batch.source_of(index), reason))
    return indexes, block.places
