"""The executor: runs plans. Partial queries run on all their shards at once; if one fails, the others are cancelled.

Connections are taken in the order of the shards' names, all before anything runs, and the merge node's own connection
reads its own shard's partitions: one connection per shard and query, so that scatters cannot deadlock on small pools.

A transaction (`transaction`) has a `branch` per shard and commits them through `two_phase`; its queries read on these
branches (`transaction_queries`), its writes are steps of them (`writes`), and a `snapshot` is one that only reads.
"""
