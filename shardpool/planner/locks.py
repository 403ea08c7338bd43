"""Row locks of a SELECT: FOR UPDATE, FOR NO KEY UPDATE, FOR SHARE, FOR KEY SHARE.

Each partition locks its own rows, which are nowhere else. A reference table has a copy on every shard, and who writes
it writes all of them: a shared lock holds against that on any one copy. Two exclusive locks of a row meet only if all
copies are locked.
"""

from __future__ import annotations

from dataclasses import dataclass

from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, walk
from shardpool.planner.refusals import refuse
from shardpool.planner.scopes import Analysis, Item

_WORDS = {
    pb.LCS_FORKEYSHARE: "KEY SHARE",
    pb.LCS_FORSHARE: "SHARE",
    pb.LCS_FORNOKEYUPDATE: "NO KEY UPDATE",
    pb.LCS_FORUPDATE: "UPDATE",
}
_EXCLUSIVE = (pb.LCS_FORNOKEYUPDATE, pb.LCS_FORUPDATE)


@dataclass(frozen=True)
class RowLocks:
    """What a SELECT locks."""

    #: The strength of the first clause, e.g. UPDATE.
    words: str
    #: Rows of subqueries, or views, are locked.
    below: bool
    #: Which of the rows are locked is left open: a LIMIT, or SKIP LOCKED.
    some: bool
    #: A reference table of which rows are locked against other locks; "" if there is none.
    exclusive_reference: str

    def check_copies(self) -> None:
        """Raise `UnsupportedStatement` if one copy of a reference table would be locked where all must be."""
        if self.exclusive_reference:
            raise refuse("SP144", f"FOR {self.words} locks rows of {self.exclusive_reference!r}")


def locks_rows(node: Tree, exclusively: bool = False) -> bool:
    """Whether a statement locks rows that it reads; *exclusively*: against other locks."""
    clauses = (it for it in walk(node) if isinstance(it, pb.LockingClause))
    return any(not exclusively or it.strength in _EXCLUSIVE for it in clauses)


def row_locks(select: Tree, analysis: Analysis) -> RowLocks | None:
    """Return what a SELECT locks, None if nothing."""
    clauses = [node for node in walk(select) if isinstance(node, pb.LockingClause)]
    if not clauses:
        return None
    own = [node.locking_clause for node in select.locking_clause]
    below = len(clauses) > len(own) or select.op != pb.SETOP_NONE
    locked = [] if below else [(clause, item) for clause in own for item in _named(clause, select, analysis)]
    below = below or any(item.query is not None for _, item in locked)
    if below:
        locked = [(clause, item) for clause in clauses for item in analysis.occurrences]
    copies = [
        item.table.name
        for clause, item in locked
        if clause.strength in _EXCLUSIVE and item.table is not None and not item.table.sharded
    ]
    some = select.HasField("limit_count") or any(it.wait_policy == pb.LockWaitSkip for it in clauses)
    return RowLocks(_WORDS.get(clauses[0].strength, "UPDATE"), below, some, next(iter(copies), ""))


def _named(clause: Tree, select: Tree, analysis: Analysis) -> list[Item]:
    """The items of FROM that a clause names: all, if it names none."""
    names = {node.range_var.relname for node in clause.locked_rels}
    return [item for item in analysis.scope_of(select).items if not names or item.alias in names]
