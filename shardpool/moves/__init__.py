"""Moving partitions between live servers, and shards in and out.

A move is a tuple of `steps.STEPS`: copy the partition to the target under a hidden name, compare every row, make its
writers wait, rename it on the source so that nobody reaches it there any more, flip its placement in the catalog,
rename it on the target so that everybody reaches it there. No instant has two owners, and before the flip everything
can be undone.

There are two such tuples. In mode "block" writers wait from the start. In modes "trigger" and "logical" they wait only
at the end: `capture` notes the keys of what they write meanwhile, by `triggers` or by a replication `slot`; `rounds`
carries it over, `online` has the steps, `cutover` tries again when the end takes too long, `resume` goes on for a
process that died, `reverse` keeps the way back open and `keeping` current. `modes` picks.

A split, merge, pin or unpin (`change`) is the second tuple over several sources or targets, whose pairs are its legs:
`spread` sorts their rows out by the hash of the key.

A plan of several moves (`plan`, `rebalance`) is carried out on any executor of the runner (`carrying`).

A column of a table with rows becomes unique over all partitions (`unique`) by giving these new numbers where they are.

What can go wrong is met in one place each. `guarded`: nobody changes the catalog for a move that another process has
taken over. `servers`: nobody has a connection for it either. `settle`: from what the catalog says, any process undoes
or completes any move. `fence`: why no statement reads or writes a partition where it no longer is. `lock`: how writers
are made to wait and not to fail.
"""

from shardpool.moves.change import change_partitions
from shardpool.moves.change_plan import ChangePlan, Piece, plan_merge, plan_pin, plan_split, plan_unpin
from shardpool.moves.journal import Leftover
from shardpool.moves.partition import move_partition
from shardpool.moves.plan import PlannedMove, ProposedSplit, RebalancePlan, ShardTotals, plan_rebalance
from shardpool.moves.progress import MoveProgress
from shardpool.moves.rebalance import apply_rebalance, resume_rebalance
from shardpool.moves.recovery import Recovered, abort_move, care_for_moves, recover_moves
from shardpool.moves.runner import MoveReport
from shardpool.moves.shards import add_shard, drain_shard, register_shard, remove_shard
from shardpool.moves.status import MoveStatus, move_status
from shardpool.moves.steps import STEPS, Step
from shardpool.moves.unique import UniquePlan, UniqueReport, add_unique, drop_unique, plan_unique

__all__ = [
    "STEPS",
    "ChangePlan",
    "Leftover",
    "MoveProgress",
    "MoveReport",
    "MoveStatus",
    "Piece",
    "PlannedMove",
    "ProposedSplit",
    "RebalancePlan",
    "Recovered",
    "ShardTotals",
    "Step",
    "UniquePlan",
    "UniqueReport",
    "abort_move",
    "add_shard",
    "add_unique",
    "apply_rebalance",
    "care_for_moves",
    "change_partitions",
    "drain_shard",
    "drop_unique",
    "move_partition",
    "move_status",
    "plan_merge",
    "plan_pin",
    "plan_rebalance",
    "plan_split",
    "plan_unique",
    "plan_unpin",
    "recover_moves",
    "register_shard",
    "remove_shard",
    "resume_rebalance",
]
