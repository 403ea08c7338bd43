"""Columns: from the parse tree to `Column`, and the defaults that would differ from shard to shard."""

from __future__ import annotations

from google.protobuf.message import Message
from postgast import pg_query_pb2 as pb

from shardpool.ddl.refusals import refuse
from shardpool.ddl.tree import find, strings, type_name
from shardpool.topology.tables import Column

_SERIAL = frozenset({"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"})

_OBJECT_IDENTIFIERS = frozenset(
    f"reg{kind}"
    for kind in [
        "class",
        "proc",
        "procedure",
        "oper",
        "operator",
        "type",
        "role",
        "namespace",
        "config",
        "dictionary",
        "collation",
        "database",
    ]
)

#: The time when the transaction began: harmless as a default if each row is given all its values anyway.
_NOW = frozenset({"now", "transaction_timestamp", "statement_timestamp"})
_NOW_VALUES = frozenset(
    getattr(pb, f"SVFOP_{name}{suffix}")
    for name in ("CURRENT_TIMESTAMP", "CURRENT_TIME", "LOCALTIMESTAMP", "LOCALTIME")
    for suffix in ("", "_N")
) | {pb.SVFOP_CURRENT_DATE}

#: Functions that give the same result everywhere. Others may, but PostgreSQL would have to be asked.
_IMMUTABLE = frozenset({"lower", "upper", "md5", "abs", "length", "make_date", "make_interval", "decode", "encode"})


def column_of(definition: pb.ColumnDef) -> Column:
    """Return the column that a definition describes, as far as the text tells."""
    kinds = {node.constraint.contype for node in definition.constraints}
    return Column(
        name=definition.colname,
        type=type_name(definition.type_name),
        not_null=bool(kinds & {pb.CONSTR_NOTNULL, pb.CONSTR_PRIMARY}),
        generated=pb.CONSTR_GENERATED in kinds,
    )


def check_column(definition: pb.ColumnDef, table: str, reference: bool, added: bool, line: int) -> None:
    """Raise `SchemaError` for sequences, and in a reference table for defaults that differ between shards.

    `added`: by ALTER TABLE, which fills existing rows with the default on each shard by itself.
    """
    place = place_of(definition.colname, table, reference)
    serial = definition.type_name.names and strings(definition.type_name.names)[-1] in _SERIAL
    if serial or any(node.constraint.contype == pb.CONSTR_IDENTITY for node in definition.constraints):
        raise refuse("SP223", line=line, place=place)
    if definition.type_name.names and strings(definition.type_name.names)[-1] in _OBJECT_IDENTIFIERS:
        raise refuse("SP229", line=line, place=place)
    for node in definition.constraints:
        if node.constraint.contype == pb.CONSTR_DEFAULT:
            check_no_sequence(node.constraint.raw_expr, place, line)
            if reference:
                check_same_everywhere(node.constraint.raw_expr, place, added, line)


def place_of(column: str, table: str, reference: bool) -> str:
    return f"column {column!r} of {'reference ' if reference else ''}table {table!r}"


def check_no_sequence(expression: Message, place: str, line: int) -> None:
    """Raise `SchemaError` for a default that uses a sequence."""
    if any(strings(call.funcname)[-1] == "nextval" for call in find(expression, pb.FuncCall)):
        raise refuse("SP223", line=line, place=place)


def check_same_everywhere(expression: Message, place: str, added: bool, line: int) -> None:
    """Raise `SchemaError` for a default that may differ between shards; the time is allowed where it is not used."""
    called = [strings(call.funcname) for call in find(expression, pb.FuncCall)]
    allowed = _IMMUTABLE if added else _IMMUTABLE | _NOW
    differing = [name for name in called if name[-1] not in allowed or name[:-1] not in ([], ["pg_catalog"])]
    if differing:
        raise refuse("SP224", line=line, place=place, what=".".join(differing[0]) + "()")
    for value in find(expression, pb.SQLValueFunction):
        if added or value.op not in _NOW_VALUES:
            what = pb.SQLValueFunctionOp.Name(value.op).removeprefix("SVFOP_")
            raise refuse("SP224", line=line, place=place, what=what)
