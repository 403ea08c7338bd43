"""Jobs over whole keyspaces, on the one runner in `shardpool.bulk`: resumable, each row exactly once.

A job is a spec (`spec`: a TOML file) and the three ends that its kind makes of it (`kind`): a source, a transform, a
sink. `run` gives them to the runner. Nothing here writes a checkpoint. `destination` makes the tables of one database
that takes a keyspace, `digest` compares rows on both sides.
"""

from shardpool.bulk.journal import JobRecord
from shardpool.bulk.runner import JobProgress
from shardpool.jobs.run import (
    JobResult,
    cancel_job,
    close_job,
    job_status,
    pause_job,
    plan_job,
    resume_job,
    run_job,
    undo_job,
)

__all__ = [
    "JobProgress",
    "JobRecord",
    "JobResult",
    "cancel_job",
    "close_job",
    "job_status",
    "pause_job",
    "plan_job",
    "resume_job",
    "run_job",
    "undo_job",
]
