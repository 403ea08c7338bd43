"""The boundary at which psycopg2's errors during a load become shardpool's; the original is their ``__cause__``."""

from __future__ import annotations

import re

import psycopg2
from psycopg2 import errors

from shardpool.bulk.layout import Layout
from shardpool.bulk.split import Batch
from shardpool.errors import BadRow, LoadError, ShardpoolError, ShardUnavailable, StalePlacement

_LINE_AND_COLUMN = re.compile(r"(\d+)(?:, \w+ ([^:]+))?")


def refused(error: psycopg2.Error, shard: str, *, gone: bool) -> ShardpoolError:
    """Translate the failure of a statement of the load, other than a batch. *gone*: the connection is closed."""
    if isinstance(error, errors.UndefinedTable | errors.InvalidSchemaName):
        return StalePlacement(f"shard {shard!r}: {_primary(error)}; the rows were to go where the shard map said")
    if gone or (error.pgcode or "").startswith(("08", "57P")):
        return ShardUnavailable(shard, _primary(error))
    more = [text for text in (error.diag.message_detail, error.diag.message_hint) if text]
    return LoadError(f"shard {shard!r}: {' '.join([_primary(error), *more])}")


def without_prepared_transactions(shard: str) -> LoadError:
    return LoadError(
        f"shard {shard!r} has max_prepared_transactions = 0, but a load over several shards commits by PREPARE "
        "TRANSACTION: set it in postgresql.conf to at least max_connections and restart that server"
    )


def refused_batch(
    error: psycopg2.Error, shard: str, *, gone: bool, batch: Batch, table: str, layout: Layout, source: str
) -> ShardpoolError:
    """Translate the failure of a batch: a fault of the data becomes a `BadRow` that names the line of the source."""
    if not (error.pgcode or "").startswith(("22", "23")):
        return refused(error, shard, gone=gone)
    reason = _primary(error)
    if error.diag.message_detail:
        reason += f" ({error.diag.message_detail})"
    place = _place(error.diag.context or "", table)
    if place is None:
        # Checks at the end of the statement (foreign keys) name no line.
        first, last = batch.lines()
        return LoadError(f"{source}, a row within lines {first} to {last}: {reason}")
    line, column = place
    if column:
        reason = f"column {column}: {reason}"
    return BadRow(source, batch.source_line(line, layout), reason)


def _place(context: str, table: str) -> tuple[int, str] | None:
    """Return line and column of ``COPY lineitem, line 123, column l_tax: "x"``; the words may be in any language."""
    for entry in context.splitlines():
        before, found, after = entry.partition(table)
        if found and "COPY" in before + after and (match := _LINE_AND_COLUMN.search(after)):
            return int(match[1]), (match[2] or "").strip()
    return None


def _primary(error: psycopg2.Error) -> str:
    text = error.diag.message_primary or str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
