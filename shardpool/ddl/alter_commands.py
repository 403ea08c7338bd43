"""The commands of ALTER TABLE that sharding allows: one function each, in `COMMANDS`; any other is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from postgast import pg_query_pb2 as pb

from shardpool.ddl.columns import check_column, check_no_sequence, check_same_everywhere, column_of, place_of
from shardpool.ddl.create_table import check_constraint
from shardpool.ddl.foreign_keys import add_constraint, definition_of, take_from_column
from shardpool.ddl.keys import is_widened, refuse_key_change
from shardpool.ddl.planning import Planning
from shardpool.ddl.refusals import refuse
from shardpool.ddl.script import ParsedStatement
from shardpool.ddl.tree import strings
from shardpool.topology.tables import Column, Table


@dataclass
class Parts:
    """The commands of one ALTER TABLE, sorted by when a copy needs them; `table` is as they leave it.

    They run in the order of PostgreSQL's own passes: what is dropped, what the rows need, what comes after the rows.
    """

    planning: Planning
    statement: ParsedStatement
    table: Table
    drops: list[pb.AlterTableCmd] = field(default_factory=list)
    before: list[pb.AlterTableCmd] = field(default_factory=list)
    after: list[pb.AlterTableCmd] = field(default_factory=list)
    keys: list[pb.Constraint] = field(default_factory=list)
    #: A column's definition was changed: the user's words no longer say what is to run.
    reworded: bool = False

    @property
    def line(self) -> int:
        return self.statement.line


def _plain(parts: Parts, command: pb.AlterTableCmd) -> None:
    parts.before.append(command)


def _maintain_trigger(parts: Parts, command: pb.AlterTableCmd) -> None:
    parts.after.append(command)


def _add_column(parts: Parts, command: pb.AlterTableCmd) -> None:
    copy = pb.AlterTableCmd()
    copy.CopyFrom(command)
    definition = definition_of(copy).column_def
    table = parts.table
    check_column(definition, table.name, not table.sharded, added=True, line=parts.line)
    for node in definition.constraints:
        constraint = pb.Constraint()
        constraint.CopyFrom(node.constraint)
        constraint.keys.add().string.sval = definition.colname
        check_constraint(table, constraint)
    keys = take_from_column(definition)
    if keys and command.missing_ok:
        raise refuse("SP244", line=parts.line, column=definition.colname)
    parts.before.append(copy)
    for key in keys:
        parts.reworded = True
        parts.keys.append(key)
        parts.after.append(add_constraint(key))
    if table.column(definition.colname) is None:
        parts.table = replace(table, columns=(*table.columns, column_of(definition)))


def _drop_column(parts: Parts, command: pb.AlterTableCmd) -> None:
    refuse_key_change(parts.table, command.name, "DROP COLUMN", parts.line)
    parts.before.append(command)
    kept = tuple(column for column in parts.table.columns if column.name != command.name)
    primary_key = () if command.name in parts.table.primary_key else parts.table.primary_key
    parts.table = replace(parts.table, columns=kept, primary_key=primary_key)


def _alter_type(parts: Parts, command: pb.AlterTableCmd) -> None:
    definition = definition_of(command).column_def
    new = column_of(definition)
    if definition.HasField("raw_default") or not is_widened(parts.table, command.name, new.type):
        refuse_key_change(parts.table, command.name, "ALTER TYPE of column", parts.line)
    parts.before.append(command)
    parts.table = _with_column(parts.table, command.name, lambda it: replace(it, type=new.type))


def _set_default(parts: Parts, command: pb.AlterTableCmd) -> None:
    expression = definition_of(command)
    place = place_of(command.name, parts.table.name, not parts.table.sharded)
    check_no_sequence(expression, place, parts.line)
    if not parts.table.sharded:
        check_same_everywhere(expression, place, False, parts.line)
    parts.before.append(command)


def _drop_not_null(parts: Parts, command: pb.AlterTableCmd) -> None:
    refuse_key_change(parts.table, command.name, "DROP NOT NULL of column", parts.line)
    parts.before.append(command)
    parts.table = _with_column(parts.table, command.name, lambda it: replace(it, not_null=False))


def _set_not_null(parts: Parts, command: pb.AlterTableCmd) -> None:
    parts.before.append(command)
    parts.table = _with_column(parts.table, command.name, lambda it: replace(it, not_null=True))


def _with_column(table: Table, name: str, change: Callable[[Column], Column]) -> Table:
    return replace(table, columns=tuple(change(it) if it.name == name else it for it in table.columns))


def _add_identity(parts: Parts, command: pb.AlterTableCmd) -> None:
    place = place_of(command.name, parts.table.name, not parts.table.sharded)
    raise refuse("SP223", line=parts.line, place=place)


def _add_constraint(parts: Parts, command: pb.AlterTableCmd) -> None:
    constraint = definition_of(command).constraint
    if constraint.indexspace:
        raise refuse("SP222", line=parts.line, table=parts.table.name)
    if constraint.contype == pb.CONSTR_FOREIGN:
        parts.keys.append(constraint)
        parts.after.append(command)
        return
    if constraint.indexname:
        raise refuse("SP201", line=parts.line, what="ALTER TABLE .. ADD CONSTRAINT .. USING INDEX")
    check_constraint(parts.table, constraint)
    parts.before.append(command)
    if constraint.contype == pb.CONSTR_PRIMARY:
        parts.table = replace(parts.table, primary_key=tuple(strings(constraint.keys)))


def _drop_constraint(parts: Parts, command: pb.AlterTableCmd) -> None:
    if parts.planning.history.current("foreign key", command.name, parts.table.name):
        parts.drops.append(command)
    else:
        parts.before.append(command)


def _maintain_constraint(parts: Parts, command: pb.AlterTableCmd) -> None:
    definition = definition_of(command)
    name = command.name or definition.atalter_constraint.conname
    foreign = parts.planning.history.current("foreign key", name, parts.table.name)
    (parts.after if foreign else parts.before).append(command)


COMMANDS: Mapping[pb.AlterTableType, Callable[[Parts, pb.AlterTableCmd], None]] = {
    pb.AT_AddColumn: _add_column,
    pb.AT_DropColumn: _drop_column,
    pb.AT_AlterColumnType: _alter_type,
    pb.AT_ColumnDefault: _set_default,
    pb.AT_DropNotNull: _drop_not_null,
    pb.AT_SetNotNull: _set_not_null,
    pb.AT_AddIdentity: _add_identity,
    pb.AT_AddConstraint: _add_constraint,
    pb.AT_DropConstraint: _drop_constraint,
    pb.AT_ValidateConstraint: _maintain_constraint,
    pb.AT_AlterConstraint: _maintain_constraint,
    pb.AT_SetExpression: _plain,
    pb.AT_DropExpression: _plain,
    pb.AT_SetStatistics: _plain,
    pb.AT_SetOptions: _plain,
    pb.AT_ResetOptions: _plain,
    pb.AT_SetStorage: _plain,
    pb.AT_SetCompression: _plain,
    pb.AT_SetRelOptions: _plain,
    pb.AT_ResetRelOptions: _plain,
    pb.AT_ReplicaIdentity: _plain,
    pb.AT_EnableTrig: _maintain_trigger,
    pb.AT_DisableTrig: _maintain_trigger,
    pb.AT_EnableAlwaysTrig: _maintain_trigger,
    pb.AT_EnableReplicaTrig: _maintain_trigger,
}
