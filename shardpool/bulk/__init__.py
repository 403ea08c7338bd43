"""Bulk work over all partitions: loads, and the runner of jobs.

**Loading**: one source of rows, split by partition key and copied into all partitions at once, atomically. The way
of a row: `source` opens, `records` finds where rows begin and end, `fields` and `keys` read the key as PostgreSQL would
and `route` finds its partition (all this is a `feed`), `split` collects rows per partition into batches, `lanes` copies
these in one transaction per shard, and `commit` ends all transactions alike by the catalog's `decision`. Rows that are
Python objects enter at `rows`, already as records.

A row's other columns are never looked at: the server reads the user's own bytes, and what it refuses is traced back to
the line of the source.

**The runner** brings the rows of a source to a sink by `chunk`s, each exactly once, whatever dies when. `runner`
coordinates a job that the `journal` knows: it cuts the source (`keyset`), hands chunks to the `executors` within limits
(`crew`), and a `worker` reads, transforms and writes each, again if need be. A sink (`keyspace_sink`, `database_sink`,
`file_sink`) writes a chunk's rows and its entry in the `ledger` as one commit; `together` does so over several shards.
Bad rows are found by halving (`isolate`) and told in `rejects`.
"""

from shardpool.bulk.decision import Resolved, resolve_loads
from shardpool.bulk.load import LoadResult, copy_into
from shardpool.bulk.progress import LoadProgress

__all__ = ["LoadProgress", "LoadResult", "Resolved", "copy_into", "resolve_loads"]
