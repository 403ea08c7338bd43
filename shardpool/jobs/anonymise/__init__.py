"""Anonymising a keyspace: its joins, foreign keys and uniqueness hold, its persons are gone.

The way of a spec: `decisions` completes and checks it against the tables, `compile` makes `rules` of it (`pseudonym`,
`change`), `transform` applies them to chunks. `coverage` tells a person what is kept, `privacy` measures the outcome,
and in place the copy comes `back`.
Everything that is made up depends on the `secret` and the value alone: the same secret gives the same copy.
"""

from shardpool.jobs.anonymise.back import with_originals
from shardpool.jobs.anonymise.coverage import Covered
from shardpool.jobs.anonymise.job import coverage_of, prepare

__all__ = ["Covered", "coverage_of", "prepare", "with_originals"]
