"""The proof that a row is inserted into the partition where the rows that it comes from are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shardpool.planner.ast import Tree, is_a
from shardpool.planner.scopes import Member, Scope
from shardpool.topology.tables import Table


def copies_own_key(nodes: Sequence[Tree], scope: Scope, table: Table) -> bool:
    """Whether *nodes*, the new key of a row of *table*, are just the key columns of one sharded table in *scope*."""
    members = [scope.resolve(node.column_ref) if is_a(node, "column_ref") else None for node in nodes]
    return are_key([origin_of(member) for member in members], table)


def are_key(origins: Iterable[Member | None], table: Table) -> bool:
    """Whether these columns are in this order the key of one item, of the same types as the key of *table*."""
    found = [origin for origin in origins if origin is not None]
    if len(found) != len(table.key):
        return False
    item = found[0][0]
    source = item.table
    if source is None or source.key_types != table.key_types or any(member[0] is not item for member in found):
        return False
    return [item.alias_of(name) for name in source.key] == [name for _, name in found]


def origin_of(member: Member | None) -> Member | None:
    """The table's column behind a column, perhaps of subqueries; None if there is none."""
    if member is None:
        return None
    item, name = member
    while item.table is None:
        place = item.columns.index(name) if item.columns is not None and name in item.columns else len(item.origins)
        origin = item.origins[place] if place < len(item.origins) else None
        if origin is None:
            return None
        item, name = origin
    return item, name
