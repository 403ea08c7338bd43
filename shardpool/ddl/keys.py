"""The rules of the partition key: what its columns must be, and what must contain them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from postgast import pg_query_pb2 as pb

from shardpool.ddl.refusals import refuse
from shardpool.ddl.tree import strings
from shardpool.topology.key import KEY_TYPES, KeyType
from shardpool.topology.tables import Table

#: From the smallest.
_INTEGERS = ("smallint", "integer", "bigint")


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


def check_reservations(tables: Mapping[str, Table], table: Table, line: int) -> None:
    """Raise `SchemaError` unless *table* fits the tables of reservations that it has, or is one of."""
    for owner in (table, *(it for it in tables.values() if any(name == table.name for _, name in it.unique))):
        for column, name in owner.unique:
            reservation = table if name == table.name else tables.get(name)
            if reservation is not None:
                _check_reservation(owner, column, reservation, line)
            elif owner.column(column) is None or column in owner.key:
                raise refuse(
                    "SP246", line=line, table=owner.name, column=column, what="must be a column beside the key"
                )


def refuse_reservation_change(tables: Mapping[str, Table], table: Table, line: int) -> None:
    """Raise `SchemaError` if *table* holds reservations."""
    for owner in tables.values():
        if any(name == table.name for _, name in owner.unique):
            raise refuse("SP249", line=line, table=table.name, owner=owner.name)


def _check_reservation(owner: Table, column: str, reservation: Table, line: int) -> None:
    expected = [owner.column(name) for name in (column, *owner.key)]
    found = [reservation.column(name) for name in (column, *owner.key)]
    wrong = ""
    if column in owner.key or not owner.primary_key or expected[0] is None or expected[0].generated:
        wrong = "must be a stored column beside the key, and its table have a primary key"
    elif reservation.key != (column,) or reservation.primary_key != (column,) or reservation.unique:
        wrong = f"needs {reservation.name!r} to be sharded by {column} alone, as its primary key"
    elif None in found or len(reservation.columns) != len(found):
        wrong = f"needs {reservation.name!r} to have just the columns {', '.join((column, *owner.key))}"
    elif any((a.type, a.collation) != (b.type, b.collation) for a, b in zip(expected, found, strict=True) if a and b):
        wrong = f"needs {reservation.name!r} to have columns of the same types"
    if wrong:
        raise refuse("SP246", line=line, table=owner.name, column=column, what=wrong)


def is_widened(table: Table, column: str, new_type: str) -> bool:
    """Whether a column becomes a larger integer: all integers hash alike. Reservations would keep the smaller one."""
    old = table.column(column)
    if old is None or table.unique or not {old.type, new_type} <= set(_INTEGERS):
        return False
    return _INTEGERS.index(old.type) < _INTEGERS.index(new_type)


def refuse_key_change(table: Table, column: str, what: str, line: int) -> None:
    if column in table.key or column in dict(table.unique):
        raise refuse("SP237", what=what, column=column, table=table.name, line=line)
