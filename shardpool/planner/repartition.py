"""Repartition: which tables of a query could be divided among the shards anew, by a column on which they are joined.

Rows with equal values must come to the same shard. The executor divides by the text of the value, so the column's type
must be one whose equal values have equal texts: those of partition keys are, where no collation takes different texts
for equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from shardpool.planner.pins import Equalities
from shardpool.planner.scopes import Item, Member
from shardpool.planner.statement import Statement
from shardpool.topology.key import KEY_TYPES


def repartitions(
    sharded: Sequence[Item], statement: Statement, size: Callable[[str], float]
) -> Iterator[dict[Item, str]]:
    """Yield occurrence -> the column to divide it by, for tables that are joined on such columns; largest first.

    *size* gives the bytes of a table. What is yielded is a proposal; that the joins then are partition-wise remains to
    be proven.
    """
    seen: list[dict[Item, str]] = []
    for first in sorted(sharded, key=lambda item: size(_table_of(item)), reverse=True):
        equal = Equalities.of(first, statement)
        for name in first.columns or ():
            members = [
                member for member in equal.members((first, name)) if _can_divide(member) and member[0] in sharded
            ]
            found = {first: name, **{item: column for item, column in members if item is not first}}
            whole = all(_table_of(item) not in map(_table_of, found) for item in sharded if item not in found)
            columns = {(_table_of(item), item.column(column)) for item, column in found.items()}
            one_each = len(columns) == len({table for table, _ in columns})
            if len(found) > 1 and _can_divide((first, name)) and whole and one_each and found not in seen:
                seen.append(found)
                yield found


def _table_of(item: Item) -> str:
    return item.table.name if item.table is not None else ""


def _can_divide(member: Member) -> bool:
    item, name = member
    column = item.column(name)
    if item.table is None or item.sampled or column is None or column.base_type not in KEY_TYPES:
        return False
    return not column.collation or column.collation.startswith("pg_catalog.")
