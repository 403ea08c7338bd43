"""Making a column of a table with rows unique over all partitions, while everybody goes on; and giving that up.

A router whose map is old would write rows and not their reservations (`planner.writes.guarded`). So the map that has
the unique column has new numbers for all partitions, too, and no row is reserved before its partition has its new one:

1. The table of reservations is created, and the catalog says that the column is *building* from the number n on, which
   no partition has. Who knows it reserves nothing yet, because all partitions have lower numbers.
2. `renumber`: each partition gets a number from n on, by a move that copies nothing (`moves.steps`, mode "rename"). It
   waits for the transactions that write the partition, prepared ones too; from then on statements of old maps fail as
   stale, and are planned anew. So all writes of a renumbered partition reserve, or give back, what they write.
3. `fill`: what was there before is reserved, chunk by chunk, each in a transaction over all shards that has locked the
   chunk's rows: nobody changes them between the look at them and the commit of their reservations.
4. `prove`: at one cut over all shards the reservations are those of the rows, all of them, and no others.
5. The column is unique: `find_key` routes by it, and whoever gives a reservation back is told if there was none.

Until 5, a value that several rows have ends it: then, or if anything else fails, or is interrupted, the column ceases
to be building, and the table of reservations is dropped, in one schema change. A process that was killed leaves the
column building: that harms no writer, and the same call goes on with it, or `drop_unique` gives it up.
"""

from shardpool.moves.unique.build import UniqueProgress, UniqueReport, add_unique, drop_unique
from shardpool.moves.unique.plan import Duplicate, UniquePlan, plan_unique
from shardpool.moves.unique.record import Build, unfinished_build

__all__ = [
    "Build",
    "Duplicate",
    "UniquePlan",
    "UniqueProgress",
    "UniqueReport",
    "add_unique",
    "drop_unique",
    "plan_unique",
    "unfinished_build",
]
