"""Bulk loading: one source of rows, split by partition key and copied into all partitions at once, atomically.

The way of a row: `source` opens, `records` finds where rows begin and end, `fields` and `keys` read the key as
PostgreSQL would and `route` finds its partition (all this is a `feed`), `split` collects rows per partition into
batches, `lanes` copies these in one transaction per shard, and `commit` ends all transactions alike by the catalog's
`decision`. Rows that are Python objects enter at `rows`, already as records.

A row's other columns are never looked at: the server reads the user's own bytes, and what it refuses is traced back to
the line of the source.
"""

from shardpool.bulk.decision import Resolved, resolve_loads
from shardpool.bulk.load import LoadResult, copy_into
from shardpool.bulk.progress import LoadProgress

__all__ = ["LoadProgress", "LoadResult", "Resolved", "copy_into", "resolve_loads"]
