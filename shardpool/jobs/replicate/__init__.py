"""Replicating tables elsewhere, while they are written: a copy first, and then every change, for ever.

`capture` lets triggers note the keys of rows that are written, in log tables that are sharded like the tables
themselves: so a log lies in the partition's schema, moves with it, and is written by the writer's own transaction.
`changes` reads what a log names, and the log, at one snapshot of the partition. `follow` does so again and again, and
gives each batch to a receiver: `database`, or `events` for files and functions. Only then is the log emptied.
`references` keeps the reference tables of a database equal, by comparing them.

A batch has the state of all rows that were written since the batch before: of each transaction all or nothing, in the
order of their commits. A change that is told twice has the same id, or is about a newer state of its row.
"""

from shardpool.jobs.replicate.job import prepare

__all__ = ["prepare"]
