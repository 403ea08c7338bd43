"""Taking the keyspace's name out of a parse tree, and refusing the names of other schemas.

Only what a partition may hold loses its qualification: tables, and what is named through them. Types and functions
stand in the keyspace's own schema, under this name on every shard, and keep it: without it, ``shop.lower`` would be
PostgreSQL's own.

A relation, and whatever a statement creates, drops or comments on, belongs to the keyspace: any other schema is
refused. Types, functions, operators and collations that are only used may come from elsewhere (``public.citext``), but
not from a partition: its schema is found on one shard only, and may move.
"""

from __future__ import annotations

import re
from collections.abc import MutableSequence, Sequence

import postgast
from google.protobuf.message import Message
from postgast import pg_query_pb2 as pb

from shardpool.ddl.refusals import refuse
from shardpool.ddl.tree import strings

#: (message, field) of lists of strings that are a possibly qualified name of something used.
_USED = frozenset(
    {
        ("TypeName", "names"),
        ("FuncCall", "funcname"),
        ("A_Expr", "name"),
        ("CollateClause", "collname"),
        ("IndexElem", "collation"),
        ("IndexElem", "opclass"),
        ("CreateTrigStmt", "funcname"),
    }
)

#: The same, for names of what the statement is about.
_DEFINED = frozenset(
    {
        ("CreateEnumStmt", "type_name"),
        ("AlterEnumStmt", "type_name"),
        ("CreateDomainStmt", "domainname"),
        ("CreateFunctionStmt", "funcname"),
        ("ObjectWithArgs", "objname"),
    }
)

ANYWHERE = -1

#: Kinds of objects that DROP and COMMENT name by a list -> the length of the list without a schema.
_NAMED_BY_LIST = {
    pb.OBJECT_TABLE: 1,
    pb.OBJECT_VIEW: 1,
    pb.OBJECT_INDEX: 1,
    pb.OBJECT_TRIGGER: 2,
    pb.OBJECT_COLUMN: 2,
    pb.OBJECT_TABCONSTRAINT: 2,
}


def remove_qualification(tree: Message, keyspace: str, line: int) -> frozenset[int]:
    """Take *keyspace* out of the names of *tree*, in place. Raise `SchemaError` for other schemas.

    Return where the names stood, as offsets in bytes; `ANYWHERE` among them if the tree did not say where.
    """
    remover = _Remover(keyspace, line)
    for _, message in postgast.walk(tree):
        remover.visit(message)
    return frozenset(remover.removed)


class _Remover:
    def __init__(self, keyspace: str, line: int) -> None:
        self.keyspace, self.line = keyspace, line
        self.removed: set[int] = set()
        self._partition = re.compile(re.escape(keyspace) + r"_p\d{4,}")

    def visit(self, message: Message) -> None:
        if isinstance(message, pb.RangeVar):
            self._relation(message)
        elif isinstance(message, pb.ColumnRef):
            self._part_of_table(message.fields, 2, message.location)
        elif isinstance(message, pb.DropStmt | pb.CommentStmt):
            self._target(message)
        kind = type(message).DESCRIPTOR.name
        for field in message.DESCRIPTOR.fields:
            name = (kind, field.name)
            if name in _USED:
                self._shared(getattr(message, field.name), defined=False)
            elif name in _DEFINED:
                self._shared(getattr(message, field.name), defined=True)

    def _target(self, message: pb.DropStmt | pb.CommentStmt) -> None:
        kind = message.remove_type if isinstance(message, pb.DropStmt) else message.objtype
        for target in message.objects if isinstance(message, pb.DropStmt) else [message.object]:
            if kind in _NAMED_BY_LIST:
                self._part_of_table(target.list.items, _NAMED_BY_LIST[kind], ANYWHERE, defined=True)
            self._shared(target.type_name.names, defined=True)

    def _relation(self, relation: pb.RangeVar) -> None:
        if relation.catalogname or relation.schemaname not in ("", self.keyspace):
            self._refuse([relation.catalogname, relation.schemaname, relation.relname])
        if relation.schemaname:
            relation.ClearField("schemaname")
            self.removed.add(relation.location)

    def _part_of_table(self, parts: MutableSequence[pb.Node], length: int, place: int, defined: bool = False) -> None:
        """Shorten the name of a table, or of something in one, that has more than *length* parts."""
        if len(parts) <= length or parts[0].WhichOneof("node") != "string":
            return
        schema = parts[0].string.sval
        if len(parts) == length + 1 and schema == self.keyspace:
            del parts[0]
            self.removed.add(place)
        elif defined or self._partition.fullmatch(schema):
            self._refuse(strings(parts))

    def _shared(self, parts: Sequence[pb.Node], defined: bool) -> None:
        """Check the name of a type, function, operator or collation."""
        if len(parts) > 1:
            *schemas, _ = strings(parts)
            if schemas != [self.keyspace] and (defined or self._partition.fullmatch(schemas[0])):
                self._refuse(strings(parts))

    def _refuse(self, parts: list[str]) -> None:
        name = ".".join(part for part in parts if part)
        raise refuse("SP205", line=self.line, name=name, keyspace=repr(self.keyspace))
