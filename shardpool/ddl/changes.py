"""RENAME, ALTER INDEX, and COMMENT ON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from postgast import pg_query_pb2 as pb

from shardpool.ddl.alter_table import plan_alter_table
from shardpool.ddl.keys import refuse_key_change, refuse_reservation_change
from shardpool.ddl.objects import signature
from shardpool.ddl.planning import Planning, kind_of, scope_of, unchanged
from shardpool.ddl.refusals import refuse
from shardpool.ddl.script import ParsedStatement
from shardpool.ddl.statement import DdlStatement, Effect, Owner, What
from shardpool.ddl.tree import strings
from shardpool.topology.tables import Table

_INDEX_COMMANDS = (pb.AT_SetRelOptions, pb.AT_ResetRelOptions, pb.AT_SetStatistics)


def plan_rename(planning: Planning, statement: ParsedStatement) -> list[DdlStatement]:
    rename = statement.tree
    assert isinstance(rename, pb.RenameStmt)
    new, line = rename.newname, statement.line
    planning.check_new_name(new, line)
    if rename.rename_type == pb.OBJECT_INDEX:
        return _change_index(planning, statement, rename.relation.relname, new)
    if rename.rename_type not in (pb.OBJECT_COLUMN, pb.OBJECT_TABCONSTRAINT, pb.OBJECT_TRIGGER) or (
        rename.rename_type == pb.OBJECT_COLUMN and rename.relation_type != pb.OBJECT_TABLE
    ):
        raise refuse("SP254", line=line, what=f"{statement.what} .. RENAME")
    table = planning.table(rename.relation.relname, line)
    if planning.changed_before(("table", table.name)):
        return unchanged(statement)
    return [_rename_part(planning, statement, rename, table)]


def _rename_part(planning: Planning, statement: ParsedStatement, rename: pb.RenameStmt, table: Table) -> DdlStatement:
    old, new = rename.subname, rename.newname
    change = Effect("change", "table", table.name)
    if rename.rename_type == pb.OBJECT_COLUMN:
        refuse_key_change(table, old, "RENAME COLUMN", statement.line)
        refuse_reservation_change(planning.history.tables, table, statement.line)
        columns = tuple(replace(it, name=new) if it.name == old else it for it in table.columns)
        primary_key = tuple(new if name == old else name for name in table.primary_key)
        planning.history.tables[table.name] = replace(table, columns=columns, primary_key=primary_key)
        return _change(table, statement, False, [change])
    what: What = "trigger" if rename.rename_type == pb.OBJECT_TRIGGER else "foreign key"
    known = planning.history.current(what, old, table.name)
    effects = [change, Effect("rename", what, old, table.name, new)] if known else [change]
    return _change(table, statement, known is not None, effects)


def plan_alter(planning: Planning, statement: ParsedStatement) -> list[DdlStatement]:
    """ALTER TABLE and ALTER INDEX have the same tree."""
    alter = statement.tree
    assert isinstance(alter, pb.AlterTableStmt)
    if alter.objtype == pb.OBJECT_TABLE:
        return plan_alter_table(planning, statement)
    commands = {node.alter_table_cmd.subtype for node in alter.cmds}
    if alter.objtype != pb.OBJECT_INDEX or not commands <= set(_INDEX_COMMANDS):
        raise refuse("SP201", line=statement.line, what=statement.what)
    return _change_index(planning, statement, alter.relation.relname)


def _change_index(planning: Planning, statement: ParsedStatement, name: str, new_name: str = "") -> list[DdlStatement]:
    if planning.changed_before(("index", name)):
        return unchanged(statement)
    index = planning.history.current("index", name)
    if index is None:
        raise refuse("SP250", line=statement.line, what="index", name=name)
    effects = [Effect("change", "index", name, index.table)]
    if new_name:
        effects.append(Effect("rename", "index", name, index.table, new_name))
    return [_change(planning.table(index.table, statement.line), statement, True, effects)]


def _change(table: Table, statement: ParsedStatement, after_copy: bool, effects: Sequence[Effect]) -> DdlStatement:
    return DdlStatement(
        text=statement.text,
        scope=scope_of(table),
        after_copy=after_copy,
        source=statement.text,
        tables={table.name: kind_of(table)},
        effects=tuple(effects),
    )


# -- COMMENT ON -----------------------------------------------------------------------------------------------------


def plan_comment(planning: Planning, statement: ParsedStatement) -> list[DdlStatement]:
    comment = statement.tree
    assert isinstance(comment, pb.CommentStmt)
    owner = owner_of_comment(comment)
    if owner is None:
        raise refuse("SP201", line=statement.line, what=statement.what)
    what, name = owner
    if what == "index":
        return _change_index(planning, statement, name)
    if what == "table":
        return _comment_on_table(planning, statement, comment, name)
    if not planning.history.current(what, name):
        raise refuse("SP250", line=statement.line, what=what, name=name)
    if planning.changed_before(owner):
        return unchanged(statement)
    effects = (Effect("change", what, name),)
    scope = planning.history.views[name] if what == "view" else "shard"
    return [DdlStatement(statement.text, scope, source=statement.text, effects=effects)]


def owner_of_comment(comment: pb.CommentStmt) -> Owner | None:
    """Return what a comment belongs to; that on a column, constraint or trigger belongs to the table."""
    kind = comment.objtype
    if kind in (pb.OBJECT_TYPE, pb.OBJECT_DOMAIN):
        return "type", strings(comment.object.type_name.names)[-1]
    if kind in (pb.OBJECT_FUNCTION, pb.OBJECT_PROCEDURE, pb.OBJECT_ROUTINE):
        target = comment.object.object_with_args
        return "function", signature(strings(target.objname)[-1], [it.type_name for it in target.objargs])
    if kind == pb.OBJECT_VIEW:
        return "view", strings(comment.object.list.items)[0]
    if kind == pb.OBJECT_INDEX:
        return "index", strings(comment.object.list.items)[0]
    if kind in (pb.OBJECT_TABLE, pb.OBJECT_COLUMN, pb.OBJECT_TABCONSTRAINT, pb.OBJECT_TRIGGER):
        return "table", strings(comment.object.list.items)[0]
    return None


def _comment_on_table(
    planning: Planning, statement: ParsedStatement, comment: pb.CommentStmt, name: str
) -> list[DdlStatement]:
    table = planning.table(name, statement.line)
    if planning.changed_before(("table", name)):
        return unchanged(statement)
    what = _AFTER_COPY.get(comment.objtype)
    part = strings(comment.object.list.items)[-1]
    effects = [Effect("change", "table", name)]
    if what is not None and planning.history.current(what, part, name):
        effects.append(Effect("change", what, part, name))
    return [_change(table, statement, len(effects) > 1, effects)]


_AFTER_COPY: dict[pb.ObjectType, What] = {
    pb.OBJECT_TABCONSTRAINT: "foreign key",
    pb.OBJECT_TRIGGER: "trigger",
}
