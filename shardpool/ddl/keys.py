"""The rules of the partition key: what its columns must be, and what must contain them."""

from __future__ import annotations

from collections.abc import Sequence

from postgast import pg_query_pb2 as pb

from shardpool.ddl.refusals import refuse
from shardpool.ddl.tree import strings
from shardpool.topology.key import KEY_TYPES, KeyType
from shardpool.topology.tables import Table


def key_type(table: str, column: str, base_type: str) -> KeyType:
    """Return the key type of a column. Raise `SchemaError` for types that cannot be keys."""
    try:
        return KEY_TYPES[base_type]
    except KeyError:
        raise refuse("SP232", table=table, column=column, got=base_type, expected=", ".join(KEY_TYPES)) from None


def check_key(table: Table, line: int) -> tuple[KeyType, ...]:
    """Return the types of the key. Raise `SchemaError` if a column of it is missing, NULL, generated or unsuitable."""
    found = []
    for name in table.key:
        column = table.column(name)
        if column is None:
            raise refuse("SP230", line=line, table=table.name, column=name)
        found.append(key_type(table.name, name, column.base_type))
        if column.generated:
            raise refuse("SP233", table=table.name, column=name)
        if not column.not_null and name not in table.primary_key:
            raise refuse("SP231", table=table.name, column=name)
    return tuple(found)


def check_unique(table: Table, what: str, columns: Sequence[str]) -> None:
    """Raise `SchemaError` unless the plain *columns* of a unique constraint or index contain the key."""
    if not set(table.key) <= set(columns):
        raise refuse("SP235", what=what, table=table.name, expected=", ".join(table.key))


def check_exclusion(table: Table, constraint: pb.Constraint) -> None:
    """Raise `SchemaError` unless an exclusion constraint compares each key column with ``=``."""
    compared = set()
    for entry in constraint.exclusions:
        element, operator = entry.list.items
        if strings(operator.list.items)[-1] == "=":
            compared.update(plain_columns([element]))
    if not set(table.key) <= compared:
        name = f"EXCLUDE constraint {constraint.conname!r}" if constraint.conname else "an EXCLUDE constraint"
        raise refuse("SP236", what=name, table=table.name, expected=", ".join(table.key))


def plain_columns(elements: Sequence[pb.Node]) -> list[str]:
    """Return the index elements that are columns compared as the columns themselves are."""
    plain = (node.index_elem for node in elements)
    return [it.name for it in plain if it.name and not it.collation and not it.opclass]


def refuse_key_change(table: Table, column: str, what: str, line: int) -> None:
    if column in table.key:
        raise refuse("SP237", what=what, column=column, table=table.name, line=line)
