"""Copying the rows, while writers wait."""

from __future__ import annotations

from shardpool import faults
from shardpool.moves.layout import look_into, qualified, read_layout
from shardpool.moves.move import Move
from shardpool.moves.parallel import keep_alive
from shardpool.moves.relay import Relay
from shardpool.moves.uniques import without_uniques


def copy(move: Move) -> None:
    """Copy all tables."""
    record, source, target, meter = move.record, move.servers.source, move.servers.target, move.meter
    tables = read_layout(source, record.schema)
    meter.total_bytes = sum(table.heap for table in tables)
    look_into(target, record.keyspace, record.incoming)
    if tables:
        with target.cursor() as cursor:
            cursor.execute(f"TRUNCATE {qualified(record.incoming, tables)}")
    relay = Relay(source, [target], meter.add_bytes, meter.tick)
    for table in tables:
        with without_uniques([(target, record.incoming)], table, lambda: keep_alive(source)):
            meter.rows += relay.copy(table, record.schema, [record.incoming])
        faults.fault_point("move:copy:inside")
    target.commit()
