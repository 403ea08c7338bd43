"""Extract, transform, load: rows of a query, through a function, into tables, files or another database.

`extract` proves that a query may be answered partition by partition, or refuses it; `functions` are the user's own;
`window` remembers how far an incremental job has come.
"""

from shardpool.jobs.etl.job import prepare
from shardpool.jobs.etl.window import with_window

__all__ = ["prepare", "with_window"]
