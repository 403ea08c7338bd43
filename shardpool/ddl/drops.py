"""DROP: only what a script has created, and never with CASCADE."""

from __future__ import annotations

from collections.abc import Mapping

from postgast import pg_query_pb2 as pb

from shardpool.ddl.history import Created
from shardpool.ddl.objects import signature
from shardpool.ddl.planning import Planning, scope_of, unchanged
from shardpool.ddl.refusals import refuse
from shardpool.ddl.script import ParsedStatement
from shardpool.ddl.statement import DdlStatement, Effect, Scope, What
from shardpool.ddl.tree import strings

_FUNCTIONS = (pb.OBJECT_FUNCTION, pb.OBJECT_PROCEDURE, pb.OBJECT_ROUTINE)
_TYPES = (pb.OBJECT_TYPE, pb.OBJECT_DOMAIN)
_NAMED: Mapping[int, What] = {pb.OBJECT_TABLE: "table", pb.OBJECT_VIEW: "view", pb.OBJECT_INDEX: "index"}


def plan_drop(planning: Planning, statement: ParsedStatement) -> list[DdlStatement]:
    drop = statement.tree
    assert isinstance(drop, pb.DropStmt)
    if drop.remove_type not in (*_NAMED, pb.OBJECT_TRIGGER, *_TYPES, *_FUNCTIONS):
        raise refuse("SP201", line=statement.line, what=statement.what)
    if drop.behavior == pb.DROP_CASCADE:
        raise refuse("SP252", line=statement.line)
    if drop.concurrent:
        raise refuse("SP204", line=statement.line, what="DROP INDEX")
    found = [_dropped(planning, drop, target) for target in drop.objects]
    known = [it for it in found if isinstance(it, Created)]
    if not known and drop.missing_ok:
        return unchanged(statement)
    for it in found:
        if not isinstance(it, Created) and (len(found) == 1 or not drop.missing_ok):
            what, name = it
            raise refuse("SP250", line=statement.line, what=what, name=name)
    scopes = {_scope(planning, it) for it in known}
    if len(scopes) > 1 or len(known) < len(found):
        names = ", ".join(it.name if isinstance(it, Created) else it[1] for it in found)
        raise refuse("SP253", line=statement.line, names=names)
    _check_reservations_kept(planning, {it.name for it in known if it.what == "table"}, statement.line)
    after = drop.remove_type in (pb.OBJECT_INDEX, pb.OBJECT_TRIGGER)
    tables = {it.name: None for it in known if it.what == "table"}
    effects = tuple(Effect("drop", it.what, it.name, it.table) for it in known)
    return [DdlStatement(statement.text, scopes.pop(), after, statement.text, 0, tables, effects)]


def _check_reservations_kept(planning: Planning, dropped: set[str], line: int) -> None:
    for table in planning.history.tables.values():
        lost = {name for _, name in table.unique} & dropped
        if lost and table.name not in dropped:
            raise refuse("SP248", line=line, name=", ".join(sorted(lost)), table=table.name)


def _scope(planning: Planning, created: Created) -> Scope:
    if created.what == "view":
        return planning.history.views[created.name]
    table = planning.history.tables.get(created.name if created.what == "table" else created.table)
    return scope_of(table) if table else "shard"


def _dropped(planning: Planning, drop: pb.DropStmt, target: pb.Node) -> Created | tuple[str, str]:
    """Return the object that is dropped, or what and which it would be."""
    history = planning.history
    if drop.remove_type in _FUNCTIONS:
        return _function(planning, target.object_with_args)
    if drop.remove_type in _TYPES:
        name = strings(target.type_name.names)[-1]
        return history.current("type", name) or ("type", name)
    parts = strings(target.list.items)
    if drop.remove_type == pb.OBJECT_TRIGGER:
        return history.current("trigger", parts[1], parts[0]) or ("trigger", f"{parts[1]} on {parts[0]}")
    what = _NAMED[drop.remove_type]
    return history.current(what, parts[0]) or (what, parts[0])


def _function(planning: Planning, target: pb.ObjectWithArgs) -> Created | tuple[str, str]:
    name = strings(target.objname)[-1]
    if target.args_unspecified:
        found = planning.history.functions(name)
        return found[0] if len(found) == 1 else ("function", name)
    name = signature(name, [it.type_name for it in target.objargs])
    return planning.history.current("function", name) or ("function", name)
