"""Dividing a table's rows among all shards anew, by the value of a column."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shardpool.executor.scatter import Work
from shardpool.executor.temporary import columns_of, definition_of, finishing, plain, temporary, text
from shardpool.planner.plan import Relation, Stage, union_all
from shardpool.topology.names import quote

if TYPE_CHECKING:
    from shardpool.executor.stages import Job

#: What a shard sends another is kept in memory up to this size, in bytes.
SHARE_BYTES = 1 << 20


class Counted:
    """A file for COPY TO; *on_bytes* gets the size of what is written."""

    def __init__(self, file: Any, on_bytes: Callable[[int], None]) -> None:
        self._file = file
        self._on_bytes = on_bytes

    def write(self, data: bytes) -> int:
        self._on_bytes(len(data))
        return int(self._file.write(data))


def divide(job: Job, stage: Relation) -> int:
    """Divide the rows among the shards; return their number.

    A connection cannot send and receive at once: each shard first writes the others' shares to files, kept in
    memory while they are small, and reads its own from those of the others then.
    """
    name, table = quote(stage.name), temporary(stage.name)
    with contextlib.ExitStack() as stack:
        shares = {
            (source, target): stack.enter_context(tempfile.SpooledTemporaryFile(SHARE_BYTES))
            for source in stage.by_shard
            for target in stage.targets
            if source != target
        }

        def send(shard: str, connection: Any) -> int:
            rows = 0
            with connection.cursor() as cursor:
                for place, target in enumerate(stage.targets):
                    query = cursor.mogrify(share(stage, shard, place), job.parameters).decode()
                    if target == shard:
                        cursor.execute(f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {query}")
                        rows += int(cursor.rowcount)
                    else:
                        file = Counted(shares[shard, target], job.count)
                        cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", file)
            return rows

        def receive(shard: str, connection: Any) -> int:
            rows = 0
            with connection.cursor() as cursor:
                if shard not in stage.by_shard:
                    cursor.execute(f"CREATE TEMPORARY TABLE {name} ({plain(definition)}) ON COMMIT DROP")
                for source in stage.by_shard:
                    if source != shard:
                        shares[source, shard].seek(0)
                        statement = f"COPY {plain(table)} FROM STDIN (FORMAT binary)"
                        cursor.copy_expert(statement, shares[source, shard])
                        rows += int(cursor.rowcount)
            return rows

        sent = job.scatter(dict.fromkeys(stage.by_shard, send))
        first = next(iter(stage.by_shard))
        columns = job.scatter({first: lambda shard, connection: columns_of(connection, stage.name)})[first]
        definition = definition_of(columns)
        received = job.scatter(dict.fromkeys(stage.targets, receive))
    rows = {shard: sent.get(shard, 0) + received[shard] for shard in stage.targets}
    job.scatter({shard: _finisher(stage, count) for shard, count in rows.items()})
    return int(sum(rows.values()))


def share(stage: Relation, shard: str, place: int) -> str:
    """The query for a shard's rows that go to the target at a *place*. Those without a value go to the first."""
    rows = union_all(stage.select, stage.by_shard[shard], stage.appended)
    value = f"CAST(shardpool_rows.{text(quote(stage.divided_by))} AS text)"
    number = f"coalesce(CAST(CAST('x' || left(md5({value}), 7) AS bit(28)) AS integer) %% {len(stage.targets)}, 0)"
    return f"SELECT * FROM ({rows}) AS shardpool_rows WHERE {number} = {place}"


def _finisher(stage: Stage, rows: int) -> Work[None]:
    def finish(shard: str, connection: Any) -> None:
        with connection.cursor() as cursor:
            for statement in finishing(stage, rows):
                cursor.execute(statement, {})

    return finish
