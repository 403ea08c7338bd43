"""ALTER TABLE: taken apart by when a partition that arrives on a shard repeats its commands.

One statement may add a column and a foreign key; the first is needed before rows are copied, the second only after.
Such a statement becomes several: what drops, what belongs before the rows, what comes after them.
"""

from __future__ import annotations

from collections.abc import Sequence

from postgast import pg_query_pb2 as pb

from shardpool.ddl.alter_commands import COMMANDS, Parts
from shardpool.ddl.foreign_keys import check_foreign_key, definition_of, foreign_key, foreign_key_effects
from shardpool.ddl.keys import refuse_reservation_change
from shardpool.ddl.planning import Planning, kind_of, scope_of, unchanged
from shardpool.ddl.refusals import refuse
from shardpool.ddl.script import ParsedStatement, generate
from shardpool.ddl.statement import DdlStatement, Effect


def plan_alter_table(planning: Planning, statement: ParsedStatement) -> list[DdlStatement]:
    alter = statement.tree
    assert isinstance(alter, pb.AlterTableStmt)
    name = alter.relation.relname
    if name not in planning.history.tables and alter.missing_ok:
        return unchanged(statement)
    table = planning.table(name, statement.line)
    if planning.changed_before(("table", name)):
        return unchanged(statement)
    refuse_reservation_change(planning.history.tables, table, statement.line)
    parts = Parts(planning, statement, table)
    for node in alter.cmds:
        command = node.alter_table_cmd
        if command.behavior == pb.DROP_CASCADE:
            raise refuse("SP252", line=statement.line)
        handler = COMMANDS.get(command.subtype)
        if handler is None:
            what = pb.AlterTableType.Name(command.subtype).removeprefix("AT_")
            raise refuse("SP201", line=statement.line, what=f"ALTER TABLE .. {what}")
        handler(parts, command)
    for key in parts.keys:
        check_foreign_key(parts.table, foreign_key(key), {**planning.history.tables, name: parts.table}, parts.line)
    planning.history.tables[name] = parts.table
    return _statements(parts, alter)


def _statements(parts: Parts, alter: pb.AlterTableStmt) -> list[DdlStatement]:
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


def _effects(parts: Parts, commands: Sequence[pb.AlterTableCmd]) -> list[Effect]:
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


def _timed(parts: Parts) -> tuple[tuple[list[pb.AlterTableCmd], bool], ...]:
    if not parts.before:
        return ((parts.drops + parts.after, True),)
    return (parts.drops, True), (parts.before, False), (parts.after, True)


def _spell(parts: Parts, alter: pb.AlterTableStmt, commands: Sequence[pb.AlterTableCmd]) -> str:
    tree = pb.AlterTableStmt()
    tree.CopyFrom(alter)
    tree.ClearField("cmds")
    for command in commands:
        tree.cmds.add().alter_table_cmd.CopyFrom(command)
    text = generate(parts.statement.kind, tree)
    if text is None:
        raise refuse("SP245", line=parts.line, table=parts.table.name)
    return text
