"""INSERT .. SELECT of rows that belong elsewhere, as binary COPY from shards to shards: Python reads only their keys.

The types of what is read and of what is written must be the same; then a value comes to be what an INSERT would make
of it. Both are looked at inside the transaction, in which neither can change any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shardpool.errors import SchemaDrift
from shardpool.executor.at_once import on_branches
from shardpool.executor.merge import common_description
from shardpool.executor.queries import placements_of
from shardpool.executor.results import RoutedResult
from shardpool.executor.sorting import Raw, Sorted, Sorter
from shardpool.executor.texts import type_names
from shardpool.planner.plan import Concatenation, PushdownPlan, union_all
from shardpool.planner.writes import Copied, StagedInsert
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Placement

if TYPE_CHECKING:
    from shardpool.executor.branch import Branch
    from shardpool.executor.transaction import Transaction

Parameters = Mapping[str, Any]


def copied(
    transaction: Transaction, insert: StagedInsert, parameters: Parameters, at_once: bool
) -> RoutedResult | None:
    """Carry out an INSERT so if each partition's rows are known to be its own, and of the table's types; else None.

    Raises as `Router.query`.
    """
    plan = _plan(transaction, insert, parameters)
    if plan is None:
        return None
    given = {**parameters, **plan.lists}
    queries = {shard: union_all(plan.partial, its, plan.appended) for shard, its in plan.by_shard.items()}
    types = _types(transaction, plan, queries, given)
    columns = insert.copied(type_names(transaction, types), parameters)
    if columns is None:
        return None
    with Sorted() as rows:
        _send(transaction, plan, queries, given, columns, rows)
        return _receive(transaction, columns, rows, types, at_once)


def _plan(transaction: Transaction, insert: StagedInsert, parameters: Parameters) -> PushdownPlan | None:
    if not insert.plain or insert.source.unknown_function is not None:
        return None
    plan = insert.source.bind(parameters, transaction.topology)
    simple = isinstance(plan, PushdownPlan) and plan.merge == Concatenation() and not plan.moment
    return plan if isinstance(plan, PushdownPlan) and simple and plan.by_shard else None


def _types(transaction: Transaction, plan: PushdownPlan, queries: Mapping[str, str], given: Parameters) -> Any:
    """The description of the rows, the same on all shards, from here on until the end of the transaction."""

    def describe(branch: Branch) -> Any:
        query = f"SELECT * FROM ({queries[branch.shard]}) AS shardpool_rows LIMIT 0"
        return branch.run(query, given, transaction.savepoints, True).description

    placements = placements_of(plan, transaction.topology)
    found = on_branches(transaction, dict.fromkeys(queries, describe), placements, at_once=True, writes=False)
    return common_description({shard: (description, []) for shard, description in found.items()})


def _send(
    transaction: Transaction,
    plan: PushdownPlan,
    queries: Mapping[str, str],
    given: Parameters,
    columns: Copied,
    rows: Sorted,
) -> None:
    names = ", ".join(f"shardpool_c{place}" for place in range(len(columns.columns)))
    keys = ", ".join(f"CAST(shardpool_c{place} AS text)" for place in columns.keys)

    def place(raw: Raw) -> Placement:
        texts = [None if part is None else part.decode() for part in raw]
        return columns.place(texts, transaction.topology)

    def send(branch: Branch) -> None:
        sorter = Sorter(len(columns.keys), len(columns.columns), place, rows)
        query = f"SELECT {keys}, {names} FROM ({queries[branch.shard]}) AS shardpool_rows ({names})"
        branch.copy(f"COPY ({query}) TO STDOUT (FORMAT binary, ENCODING 'UTF8')", sorter, given)
        sorter.close()

    placements = placements_of(plan, transaction.topology)
    on_branches(transaction, dict.fromkeys(queries, send), placements, at_once=True, writes=False)


def _receive(transaction: Transaction, columns: Copied, rows: Sorted, types: Any, at_once: bool) -> RoutedResult:
    names = ", ".join(quote(column.name) for column in columns.columns)
    paths, wanted = transaction.topology.search_paths, _codes(types)
    ordered = sorted(rows.placements(), key=lambda it: (it.shard, it.partition.id))

    def receive(branch: Branch) -> int:
        count = 0
        for placement in ordered:
            if placement.shard == branch.shard:
                table = f"{quote(placement.partition.schema)}.{quote(columns.table.name)}"
                look = f"{paths[placement.partition.id]}SELECT {names} FROM {table} LIMIT 0".replace("%", "%%")
                found = branch.run(look, {}, transaction.savepoints)
                if _codes(found.description) != wanted:
                    raise SchemaDrift(f"the columns of {table} have other types than this router knows: run it again")
                words = f"COPY {table} ({names}) FROM STDIN (FORMAT binary, ENCODING 'UTF8')"
                count += branch.copy(words, rows.file(placement))
        return count

    by_shard = dict.fromkeys([placement.shard for placement in ordered], receive)
    counts = on_branches(transaction, by_shard, ordered, at_once=at_once) if by_shard else {}
    return RoutedResult(None, [], sum(counts.values()))


def _codes(description: Any) -> list[int]:
    return [column.type_code for column in description]
