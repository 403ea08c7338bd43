"""ALTER TABLE: which of its commands sharding allows, and when a partition that arrives on a shard repeats them.

One statement may add a column and a foreign key; the first is needed before rows are copied, the second only after.
Such a statement is taken apart: what belongs before, what belongs after, and the foreign keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from postgast import pg_query_pb2 as pb

from shardpool.ddl.columns import check_column, check_default, column_of
from shardpool.ddl.create_table import check_constraint
from shardpool.ddl.foreign_keys import (
    add_constraint,
    check_foreign_key,
    definition_of,
    foreign_key,
    foreign_key_effects,
    take_from_column,
)
from shardpool.ddl.keys import refuse_key_change
from shardpool.ddl.planning import Planning, kind_of, scope_of, unchanged
from shardpool.ddl.refusals import refuse
from shardpool.ddl.script import ParsedStatement, generate
from shardpool.ddl.statement import DdlStatement, Effect
from shardpool.ddl.tree import strings
from shardpool.topology.tables import Column, Table


@dataclass
class _Parts:
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


def plan_alter_table(planning: Planning, statement: ParsedStatement) -> list[DdlStatement]:
    alter = statement.tree
    assert isinstance(alter, pb.AlterTableStmt)
    name = alter.relation.relname
    if name not in planning.history.tables and alter.missing_ok:
        return unchanged(statement)
    table = planning.table(name, statement.line)
    if planning.changed_before(("table", name)):
        return unchanged(statement)
    parts = _Parts(planning, statement, table)
    for node in alter.cmds:
        command = node.alter_table_cmd
        if command.behavior == pb.DROP_CASCADE:
            raise refuse("SP252", line=statement.line)
        handler = _COMMANDS.get(command.subtype)
        if handler is None:
            what = pb.AlterTableType.Name(command.subtype).removeprefix("AT_")
            raise refuse("SP201", line=statement.line, what=f"ALTER TABLE .. {what}")
        handler(parts, command)
    for key in parts.keys:
        check_foreign_key(parts.table, foreign_key(key), {**planning.history.tables, name: parts.table}, parts.line)
    planning.history.tables[name] = parts.table
    return _statements(parts, alter)


def _statements(parts: _Parts, alter: pb.AlterTableStmt) -> list[DdlStatement]:
    """One statement in the user's words if all commands belong together, else one for each time."""
    groups = [(commands, after) for commands, after in _timed(parts) if commands]
    change = [Effect("change", "table", parts.table.name)]
    found = []
    for number, (commands, after) in enumerate(groups):
        whole = len(groups) == 1 and not parts.reworded
        effects = _effects(parts, commands) if after else []
        planned = DdlStatement(
            text=parts.statement.text if whole else _spell(parts, alter, commands),
            scope=scope_of(parts.table),
            after_copy=after,
            source=parts.statement.text,
            part=number,
            tables={parts.table.name: kind_of(parts.table)},
            effects=tuple(effects if number else change + effects),
        )
        found.append(planned)
    return found


def _effects(parts: _Parts, commands: Sequence[pb.AlterTableCmd]) -> list[Effect]:
    """What commands do to foreign keys and triggers."""
    table = parts.table.name
    keys = [definition_of(it).constraint for it in commands if it.subtype == pb.AT_AddConstraint]
    effects = foreign_key_effects(parts.planning, parts.table, keys)
    for command in commands:
        name = command.name or definition_of(command).atalter_constraint.conname
        if command.subtype == pb.AT_DropConstraint:
            effects.insert(0, Effect("drop", "foreign key", name, table))
        elif command.subtype in (pb.AT_ValidateConstraint, pb.AT_AlterConstraint):
            effects.append(Effect("change", "foreign key", name, table))
        elif command.subtype != pb.AT_AddConstraint:
            effects.append(Effect("change", "trigger", name, table))
    return effects


def _timed(parts: _Parts) -> tuple[tuple[list[pb.AlterTableCmd], bool], ...]:
    if not parts.before:
        return ((parts.drops + parts.after, True),)
    return (parts.drops, True), (parts.before, False), (parts.after, True)


def _spell(parts: _Parts, alter: pb.AlterTableStmt, commands: Sequence[pb.AlterTableCmd]) -> str:
    tree = pb.AlterTableStmt()
    tree.CopyFrom(alter)
    tree.ClearField("cmds")
    for command in commands:
        tree.cmds.add().alter_table_cmd.CopyFrom(command)
    text = generate(parts.statement.kind, tree)
    if text is None:
        raise refuse("SP245", line=parts.line, table=parts.table.name)
    return text


# -- the commands ---------------------------------------------------------------------------------------------------


def _plain(parts: _Parts, command: pb.AlterTableCmd) -> None:
    parts.before.append(command)


def _maintain_trigger(parts: _Parts, command: pb.AlterTableCmd) -> None:
    parts.after.append(command)


def _add_column(parts: _Parts, command: pb.AlterTableCmd) -> None:
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


def _drop_column(parts: _Parts, command: pb.AlterTableCmd) -> None:
    refuse_key_change(parts.table, command.name, "DROP COLUMN", parts.line)
    parts.before.append(command)
    kept = tuple(column for column in parts.table.columns if column.name != command.name)
    primary_key = () if command.name in parts.table.primary_key else parts.table.primary_key
    parts.table = replace(parts.table, columns=kept, primary_key=primary_key)


def _alter_type(parts: _Parts, command: pb.AlterTableCmd) -> None:
    refuse_key_change(parts.table, command.name, "ALTER TYPE of column", parts.line)
    parts.before.append(command)
    new = column_of(definition_of(command).column_def)
    parts.table = _with_column(parts.table, command.name, lambda it: replace(it, type=new.type))


def _set_default(parts: _Parts, command: pb.AlterTableCmd) -> None:
    expression = definition_of(command)
    check_default(expression, command.name, parts.table.name, not parts.table.sharded, False, parts.line)
    parts.before.append(command)


def _drop_not_null(parts: _Parts, command: pb.AlterTableCmd) -> None:
    refuse_key_change(parts.table, command.name, "DROP NOT NULL of column", parts.line)
    parts.before.append(command)
    parts.table = _with_column(parts.table, command.name, lambda it: replace(it, not_null=False))


def _set_not_null(parts: _Parts, command: pb.AlterTableCmd) -> None:
    parts.before.append(command)
    parts.table = _with_column(parts.table, command.name, lambda it: replace(it, not_null=True))


def _with_column(table: Table, name: str, change: Callable[[Column], Column]) -> Table:
    return replace(table, columns=tuple(change(it) if it.name == name else it for it in table.columns))


def _add_identity(parts: _Parts, command: pb.AlterTableCmd) -> None:
    raise refuse("SP223", line=parts.line, column=command.name, table=parts.table.name)


def _add_constraint(parts: _Parts, command: pb.AlterTableCmd) -> None:
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


def _drop_constraint(parts: _Parts, command: pb.AlterTableCmd) -> None:
    if parts.planning.history.current("foreign key", command.name, parts.table.name):
        parts.drops.append(command)
    else:
        parts.before.append(command)


def _maintain_constraint(parts: _Parts, command: pb.AlterTableCmd) -> None:
    definition = definition_of(command)
    name = command.name or definition.atalter_constraint.conname
    foreign = parts.planning.history.current("foreign key", name, parts.table.name)
    (parts.after if foreign else parts.before).append(command)


_COMMANDS: dict[pb.AlterTableType, Callable[[_Parts, pb.AlterTableCmd], None]] = {
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
