"""Two-phase commit: one transaction on several shards is committed on all of them or on none.

One of the shards that were written is the *decider*. Its own transaction inserts the *record*, a row under the
transaction's id; then the others prepare; then the decider commits, and that commit is the decision. Whoever finds a
prepared transaction whose coordinator does not answer inserts a row under the same id that says "aborted": the primary
key lets only one of the two win. Because the record is inserted before anybody prepares, the answer is final at once:

- the record is there: committed, also if nobody else was told;
- it is being inserted by a transaction that is still open: the coordinator lives, or its session has not ended yet.
  The insertion waits for it, and gives up after `LOCK_WAIT`. The decider ends such a session after `DECISION_TIME`;
- it is not there: the decider's transaction is gone with it, and can never come back. Aborted.

So no clock and no list of live processes decides anything, and a coordinator that was frozen wakes up to a session that
has ended. A shard's part is prepared as ``shardpool:tx:<keyspace>:<decider>:<token>:<number>``: who finds it knows whom
to ask, and touches nothing that is not called so.

A transaction that wrote one shard commits there plainly, with its record in the same message: if the answer is lost, it
can be asked for. (The server's own pg_xact_status would not do: after a crash a number may be given again. And to know
the number before the commit, without another round trip, costs what the record does.)

(Loads and jobs decide in the catalog instead, see `bulk.decision`: a chunk is entered there by the same transaction.)

`names` spells ids; `commit` is the coordinator; `asking` asks; `resolving` finishes what was left behind, and forgets
old records.
"""

from shardpool.two_phase.asking import Outcome, outcome
from shardpool.two_phase.commit import Coordinator
from shardpool.two_phase.names import TransactionId
from shardpool.two_phase.resolving import PreparedBranch, Resolved, prepared_branches, resolve

__all__ = [
    "Coordinator",
    "Outcome",
    "PreparedBranch",
    "Resolved",
    "TransactionId",
    "outcome",
    "prepared_branches",
    "resolve",
]
