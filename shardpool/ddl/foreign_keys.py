"""Foreign keys: which ones a partition can check by itself, and how they are taken out of a CREATE TABLE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from postgast import pg_query_pb2 as pb

from shardpool.ddl.planning import Planning
from shardpool.ddl.refusals import refuse
from shardpool.ddl.statement import Effect
from shardpool.ddl.tree import strings
from shardpool.topology.names import MAX_IDENTIFIER_BYTES
from shardpool.topology.tables import Table

_ACTIONS = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key of *table*; `referenced_columns` is empty where the primary key is meant."""

    columns: tuple[str, ...]
    referenced: str
    referenced_columns: tuple[str, ...]
    on_update: str
    on_delete: str
    #: The columns that ON DELETE SET NULL (..) names; empty: all.
    set_columns: tuple[str, ...]


def foreign_key(constraint: pb.Constraint) -> ForeignKey:
    return ForeignKey(
        columns=tuple(strings(constraint.fk_attrs)),
        referenced=constraint.pktable.relname,
        referenced_columns=tuple(strings(constraint.pk_attrs)),
        on_update=constraint.fk_upd_action,
        on_delete=constraint.fk_del_action,
        set_columns=tuple(strings(constraint.fk_del_set_cols)),
    )


def check_foreign_key(table: Table, key: ForeignKey, tables: Mapping[str, Table], line: int) -> None:
    """Raise `SchemaError` unless every partition, and every shard, can check *key* by itself."""
    facts = {"line": line, "columns": ", ".join(key.columns), "table": table.name, "referenced": key.referenced}
    referenced = tables.get(key.referenced)
    if referenced is None:
        raise refuse("SP243", **facts)
    if not table.sharded:
        if referenced.sharded:
            raise refuse("SP240", **facts)
        return
    if table.unique and {key.on_update, key.on_delete} & set("cnd"):
        raise refuse("SP247", **facts, unique=", ".join(dict(table.unique)))
    _check_actions(table, key, referenced.sharded, line)
    if referenced.sharded:
        pairs = set(zip(key.columns, key.referenced_columns or referenced.primary_key, strict=False))
        if len(table.key) != len(referenced.key) or not set(zip(table.key, referenced.key, strict=True)) <= pairs:
            keys = {"key": ", ".join(table.key), "referenced_key": ", ".join(referenced.key)}
            raise refuse("SP241", **facts, **keys)
        if table.key_types != referenced.key_types:
            kinds = [", ".join(it.value for it in types) for types in (table.key_types, referenced.key_types)]
            raise refuse("SP242", **facts, got=kinds[0], expected=kinds[1])


def _check_actions(table: Table, key: ForeignKey, colocated: bool, line: int) -> None:
    """No action may write the key of a row where it lies. Between colocated tables ON UPDATE CASCADE never can: there
    the referenced key is a partition key itself, which is not updated in place either."""
    updating = "nd" if colocated else "cnd"
    changed = []
    if key.on_update in updating:
        changed += [(column, f"ON UPDATE {_ACTIONS[key.on_update]}") for column in key.columns]
    if key.on_delete in "nd":
        changed += [(column, f"ON DELETE {_ACTIONS[key.on_delete]}") for column in key.set_columns or key.columns]
    for column, what in changed:
        if column in table.key:
            columns = ", ".join(key.columns)
            raise refuse("SP238", line=line, columns=columns, table=table.name, column=column, what=what)


def constraint_name(table: str, columns: Sequence[str], taken: set[str], suffix: str = "fkey") -> str:
    """Return the name that PostgreSQL will choose for a constraint (or index) that has none."""
    for number in range(len(taken) + 1):
        name = _object_name(table, "_".join(columns), suffix + (str(number) if number else ""))
        if name not in taken:
            return name
    raise AssertionError("one of n + 1 names is free among n")


def _object_name(first: str, second: str, label: str) -> str:
    """PostgreSQL's makeObjectName: shorten the longer part until all fit, at a character's end."""
    parts = [first.encode(), second.encode()]
    room = MAX_IDENTIFIER_BYTES - len(label.encode()) - 2
    sizes = [len(part) for part in parts]
    while sum(sizes) > room:
        sizes[0 if sizes[0] > sizes[1] else 1] -= 1
    cut = [part[:size].decode(errors="ignore") for part, size in zip(parts, sizes, strict=True)]
    return "_".join([*cut, label])


def add_constraint(constraint: pb.Constraint) -> pb.AlterTableCmd:
    """Return the command ``ADD constraint`` of ALTER TABLE."""
    command = pb.AlterTableCmd(subtype=pb.AT_AddConstraint, behavior=pb.DROP_RESTRICT)
    definition_of(command).constraint.CopyFrom(constraint)
    return command


def definition_of(command: pb.AlterTableCmd) -> pb.Node:
    """Return the command's field ``def``, which Python cannot name."""
    node = getattr(command, "def")
    assert isinstance(node, pb.Node)
    return node


def foreign_key_effects(planning: Planning, table: Table, keys: Sequence[pb.Constraint]) -> list[Effect]:
    """Return the creation of *keys*, by the names that they have or that PostgreSQL will give them."""
    taken = {it.name for it in planning.history.objects if (it.what, it.table) == ("foreign key", table.name)}
    found = []
    for key in keys:
        name = key.conname or constraint_name(table.name, strings(key.fk_attrs), taken)
        taken.add(name)
        found.append(Effect("create", "foreign key", name, table.name))
    return found


def take_from_column(definition: pb.ColumnDef) -> list[pb.Constraint]:
    """Remove the foreign keys from a column's definition and return them as constraints of the table."""
    kept, found = [], list[pb.Constraint]()
    last: pb.Constraint | None = None
    for node in definition.constraints:
        constraint = node.constraint
        if constraint.contype == pb.CONSTR_FOREIGN:
            last = pb.Constraint()
            last.CopyFrom(constraint)
            last.fk_attrs.add().string.sval = definition.colname
            found.append(last)
        elif constraint.contype in _ATTRIBUTES and last is not None:
            _set_attribute(last, constraint.contype)
        else:
            last = None
            kept.append(node)
    if found:
        copies = [pb.Node.FromString(node.SerializeToString()) for node in kept]
        definition.ClearField("constraints")
        definition.constraints.extend(copies)
    return found


_ATTRIBUTES = (
    pb.CONSTR_ATTR_DEFERRABLE,
    pb.CONSTR_ATTR_NOT_DEFERRABLE,
    pb.CONSTR_ATTR_DEFERRED,
    pb.CONSTR_ATTR_IMMEDIATE,
    pb.CONSTR_ATTR_ENFORCED,
    pb.CONSTR_ATTR_NOT_ENFORCED,
)


def _set_attribute(constraint: pb.Constraint, attribute: pb.ConstrType) -> None:
    """``REFERENCES t DEFERRABLE``: in a column's definition such words are constraints of their own."""
    if attribute in (pb.CONSTR_ATTR_DEFERRABLE, pb.CONSTR_ATTR_DEFERRED):
        constraint.deferrable = True
    if attribute == pb.CONSTR_ATTR_DEFERRED:
        constraint.initdeferred = True
    if attribute == pb.CONSTR_ATTR_NOT_ENFORCED:
        constraint.is_enforced = False
        constraint.skip_validation = True
        constraint.initially_valid = False
