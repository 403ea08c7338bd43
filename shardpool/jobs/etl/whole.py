"""A query that only all partitions together can answer, as a source: one chunk, at one snapshot of all shards."""

from __future__ import annotations

from shardpool.bulk.chunk import Chunk, Rows, Stream
from shardpool.bulk.query_source import Extract
from shardpool.bulk.values import NULL, to_field
from shardpool.errors import JobRefused
from shardpool.router import Router
from shardpool.topology.names import quote


class WholeSource:
    """The rows of *extract*, as the router answers it."""

    def __init__(self, router: Router, extract: Extract) -> None:
        self._router, self._extract = router, extract

    def streams(self) -> list[Stream]:
        name = self._extract.table.name
        return [Stream(name, name)]

    def bounds(self, stream: Stream, chunk_rows: int) -> list[tuple[str, ...]]:
        """Return none: asked twice, the query may have other rows."""
        return []

    def read(self, chunk: Chunk) -> Rows:
        return self._read(chunk, "")

    def sample(self, stream: Stream, rows: int) -> Rows:
        return self._read(Chunk(0, stream.name, stream.table, stream.stage, None), f" LIMIT {rows:d}")

    def shard_of(self, chunk: Chunk) -> str:
        return min(self._router.shard_map.shards)

    def _read(self, chunk: Chunk, limit: str) -> Rows:
        """Raise `JobRefused` for more bytes than a query may gather."""
        columns = self._extract.table.columns
        # By their output functions, as COPY writes them; a cast to text drops the spaces of a char(n).
        texts = (
            f"CASE WHEN {quote(it.name)} IS DISTINCT FROM NULL THEN concat({quote(it.name)}) END" for it in columns
        )
        query = f"SELECT {', '.join(texts)} FROM ({self._extract.sql}) AS extract{limit}"
        most, size, records = self._router.config.query.max_gather_bytes, 0, []
        with self._router.snapshot() as snapshot:
            for row in snapshot.query(query):
                record = b"\t".join([NULL if value is None else to_field(value) for value in row])
                records.append(record)
                size += len(record)
                if size > most:
                    raise JobRefused(
                        f"the rows of extract.query are more than [query] max_gather_bytes ({most:,} bytes): they are "
                        "written together. Raise it, or extract plain rows and aggregate where they are loaded"
                    )
        names = tuple(column.name for column in columns)
        return Rows(chunk.table, names, records, lambda index: f"row {index + 1} of extract.query", types=columns)
