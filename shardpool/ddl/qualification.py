"""Taking the keyspace's name out of a parse tree, and refusing the names of other schemas.

A relation, and whatever a statement creates, drops or comments on, belongs to the keyspace: any other schema is
refused. Types, functions, operators and collations that are only used may come from elsewhere (``public.citext``), but
not from a partition: its schema is found on one shard only, and may move.
"""

from __future__ import annotations

import re
from collections.abc import MutableSequence

import postgast
from google.protobuf.message import Message
from postgast import pg_query_pb2 as pb

from shardpool.ddl.refusals import refuse
from shardpool.ddl.tree import strings

#: (message, field) of lists of strings that are a possibly qualified name of something used -> its length without.
_USED = {
    ("TypeName", "names"): 1,
    ("FuncCall", "funcname"): 1,
    ("ColumnRef", "fields"): 2,
    ("A_Expr", "name"): 1,
    ("CollateClause", "collname"): 1,
    ("IndexElem", "collation"): 1,
    ("IndexElem", "opclass"): 1,
    ("CreateTrigStmt", "funcname"): 1,
}

#: The same, for names of what the statement is about.
_DEFINED = {
    ("CreateEnumStmt", "type_name"): 1,
    ("AlterEnumStmt", "type_name"): 1,
    ("CreateDomainStmt", "domainname"): 1,
    ("CreateFunctionStmt", "funcname"): 1,
    ("ObjectWithArgs", "objname"): 1,
}

#: Kinds of objects that DROP and COMMENT name by a list -> the length of the list without a schema.
_NAMED_BY_LIST = {
    pb.OBJECT_TABLE: 1,
    pb.OBJECT_INDEX: 1,
    pb.OBJECT_TRIGGER: 2,
    pb.OBJECT_COLUMN: 2,
    pb.OBJECT_TABCONSTRAINT: 2,
}


def remove_qualification(tree: Message, keyspace: str, line: int) -> bool:
    """Take *keyspace* out of all names of *tree*, in place; return whether there was any. Raise `SchemaError`."""
    remover = _Remover(keyspace, line)
    for _, message in postgast.walk(tree):
        remover.visit(message)
    return remover.removed


class _Remover:
    def __init__(self, keyspace: str, line: int) -> None:
        self.keyspace, self.line, self.removed = keyspace, line, False
        self._partition = re.compile(re.escape(keyspace) + r"_p\d{4,}")

    def visit(self, message: Message) -> None:
        if isinstance(message, pb.RangeVar):
            self._relation(message)
        kind = type(message).DESCRIPTOR.name
        for field in message.DESCRIPTOR.fields:
            name = (kind, field.name)
            if name in _USED:
                self._name(getattr(message, field.name), _USED[name], defined=False)
            elif name in _DEFINED:
                self._name(getattr(message, field.name), _DEFINED[name], defined=True)
        if isinstance(message, pb.DropStmt) and message.remove_type in _NAMED_BY_LIST:
            for target in message.objects:
                self._name(target.list.items, _NAMED_BY_LIST[message.remove_type], defined=True)
        elif isinstance(message, pb.DropStmt | pb.CommentStmt):
            self._target(message)

    def _target(self, message: pb.DropStmt | pb.CommentStmt) -> None:
        if isinstance(message, pb.CommentStmt):
            if message.objtype in _NAMED_BY_LIST:
                self._name(message.object.list.items, _NAMED_BY_LIST[message.objtype], defined=True)
            types = [message.object.type_name]
        else:
            types = [target.type_name for target in message.objects]
        for name in types:
            self._name(name.names, 1, defined=True)

    def _relation(self, relation: pb.RangeVar) -> None:
        if relation.catalogname or relation.schemaname not in ("", self.keyspace):
            self._refuse([relation.catalogname, relation.schemaname, relation.relname])
        if relation.schemaname:
            relation.ClearField("schemaname")
            self.removed = True

    def _name(self, parts: MutableSequence[pb.Node], length: int, defined: bool) -> None:
        """Shorten a name of more than *length* parts. Operator names and column references may not be strings only."""
        if len(parts) <= length or parts[0].WhichOneof("node") != "string":
            return
        schema = parts[0].string.sval
        if len(parts) == length + 1 and schema == self.keyspace:
            del parts[0]
            self.removed = True
        elif defined or self._partition.fullmatch(schema):
            self._refuse(strings(parts))

    def _refuse(self, parts: list[str]) -> None:
        name = ".".join(part for part in parts if part)
        raise refuse("SP205", line=self.line, name=name, keyspace=repr(self.keyspace))
