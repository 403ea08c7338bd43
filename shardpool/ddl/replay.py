"""Repeating the recorded statements in a partition's new schema, and the proof that this gives the same tables.

A partition that moves is built anew on its target: first what its rows need, then, when they are there, foreign keys,
triggers and other indexes. So the statements run in another order than they were given in, and what has no effect any
more is left out (`compaction`). Most of the time the result is the same (an index can be created later); sometimes it
is not (it was created on a column that has another name now). Each change of the schema is therefore tried both ways in
a schema that is rolled back: all in order, and in two phases. Where the results differ, older indexes are brought
forward into the first phase until they agree. Foreign keys and triggers are never left there: they would judge, or
double, rows that are being copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shardpool.ddl.compaction import compact
from shardpool.ddl.features import Feature, read_features
from shardpool.ddl.log import Recorded
from shardpool.ddl.refusals import refuse
from shardpool.ddl.session import ShardSession, first_line
from shardpool.errors import SchemaBusy, SchemaError
from shardpool.topology.names import quote


@dataclass(frozen=True)
class _Outcome:
    """What a replay gave, or why it failed."""

    after_rows: frozenset[Feature] = frozenset()
    in_the_end: frozenset[Feature] = frozenset()
    failure: str = ""


def phase(log: Sequence[Recorded], after_copy: bool) -> list[str]:
    """Return the texts of a partition's statements that run before its rows are copied, or after."""
    statements = (it.statement for it in compact(log))
    return [it.text for it in statements if it.scope == "partition" and it.after_copy == after_copy]


def prove_replay(session: ShardSession, done: Sequence[Recorded], batch: Sequence[Recorded]) -> frozenset[int]:
    """Return the ids of statements that must be brought forward so that a partition can be built in two phases.

    The session has run *batch*, in a transaction that goes on. Raise `SchemaError` if nothing helps.
    """
    log = [*done, *batch]
    expected = _try(session, [it.statement.text for it in log if it.statement.scope == "partition"], [])
    if expected.failure:
        # Older statements name a type or function that is gone, perhaps only such as have no effect any more.
        with session.reading(session.schemas[0]) as cursor:
            expected = _Outcome(in_the_end=read_features(cursor, session.schemas[0]))
    reason = ""
    for choose in (_nothing, _of_changed_tables, _everything):
        forward = choose(log, batch)
        moved = [
            replace(it, statement=replace(it.statement, after_copy=False)) if it.id in forward else it for it in log
        ]
        outcome = _try(session, phase(moved, False), phase(moved, True))
        reason = outcome.failure or _difference(outcome, expected)
        if not reason:
            return forward
    raise refuse("SP266", reason=reason)


def _try(session: ShardSession, before: Sequence[str], after: Sequence[str]) -> _Outcome:
    """Run statements in a scratch schema, and take them back."""
    scratch = f"shardpool_replay_{session.keyspace}"
    session.run(f"SAVEPOINT replay; CREATE SCHEMA {quote(scratch)}")
    try:
        for text in before:
            session.run_in(scratch, text)
        first = _features(session, scratch)
        for text in after:
            session.run_in(scratch, text)
        return _Outcome(first, _features(session, scratch))
    except SchemaBusy:
        raise
    except SchemaError as error:
        return _Outcome(failure=f"{first_line(error.__cause__ or error)} in: {text}")
    finally:
        session.roll_back_to("replay")


def _features(session: ShardSession, schema: str) -> frozenset[Feature]:
    with session.reading(schema) as cursor:
        return read_features(cursor, schema)


def _difference(outcome: _Outcome, expected: _Outcome) -> str:
    for it in sorted(outcome.after_rows):
        if it.kind in ("foreign key", "trigger"):
            return f"{it.kind} {it.name!r} of table {it.table!r} would have to exist before the rows are copied"
    for it in sorted(outcome.in_the_end ^ expected.in_the_end):
        here = "would be missing" if it in expected.in_the_end else "would be left over"
        return f"{it.kind} {it.name!r} of table {it.table!r} {here} ({it.definition})"
    return ""


# -- what to bring forward, in the order in which it is tried ---------------------------------------------------------

_Choice = Callable[[Sequence[Recorded], Sequence[Recorded]], frozenset[int]]


def _nothing(log: Sequence[Recorded], batch: Sequence[Recorded]) -> frozenset[int]:
    return frozenset()


def _of_changed_tables(log: Sequence[Recorded], batch: Sequence[Recorded]) -> frozenset[int]:
    """Older statements on the tables that the batch changes before the copy."""
    changes = [it for it in batch if it.statement.scope == "partition" and not it.statement.after_copy]
    return frozenset(
        it.id
        for it in log
        if it.statement.after_copy
        and any(it.id < change.id and it.statement.owners & change.statement.owners for change in changes)
    )


def _everything(log: Sequence[Recorded], batch: Sequence[Recorded]) -> frozenset[int]:
    last = max((it.id for it in log if it.statement.scope == "partition" and not it.statement.after_copy), default=0)
    return frozenset(it.id for it in log if it.statement.after_copy and it.id < last)
