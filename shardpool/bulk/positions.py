"""How many batches of a partition a job has told: a number for the next one, for one run only.

The row of a partition names the run that may count on. A run claims all rows when it begins; so a process that was
thought dead and wakes gets no number any more, and tells nothing older than what was told since.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from shardpool.errors import JobFailed

#: The table beside the catalog's; `create` makes it where a job's destination keeps it.
CATALOG = "shardpool_catalog.job_position"

_COLUMNS = "job uuid, partition int, number bigint NOT NULL, run uuid NOT NULL, PRIMARY KEY (job, partition)"


@dataclass(frozen=True)
class Positions:
    """The positions of *job* in *table*, for the run *run*. Methods work in the transaction of a psycopg2 cursor."""

    table: str
    job: uuid.UUID
    run: uuid.UUID

    def create(self, cursor: Any) -> None:
        """Create the table if it is not there."""
        cursor.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({_COLUMNS})")

    def claim(self, cursor: Any) -> None:
        """Let no other run count on."""
        cursor.execute(f"UPDATE {self.table} SET run = %s WHERE job = %s", (str(self.run), str(self.job)))

    def next(self, cursor: Any, partition: int) -> int:
        """Return the number of the next batch. Raise `JobFailed` if another run has claimed the partition."""
        cursor.execute(
            f"INSERT INTO {self.table} AS known VALUES (%s, %s, 1, %s) ON CONFLICT (job, partition) "
            "DO UPDATE SET number = known.number + 1 WHERE known.run = excluded.run RETURNING number",
            (str(self.job), partition, str(self.run)),
        )
        row = cursor.fetchone()
        if row is None:
            raise JobFailed(
                f"partition {partition} is told by another run of the job, which began later: this one ends"
            )
        return int(row[0])
