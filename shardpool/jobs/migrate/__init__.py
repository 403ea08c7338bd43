"""Moving an unsharded database in: `propose` what to split by what, copy by chunks, follow its changes, switch over.

`survey` reads the database; `schema` is its DDL; `capture` notes the keys of rows that change during the copy; `apply`
brings these over; `digest` compares all rows; `finish` puts them in order. Nothing needs one snapshot for the whole
copy, so a job that was killed goes on where it was.
"""

from shardpool.jobs.migrate.job import prepare

__all__ = ["prepare"]
