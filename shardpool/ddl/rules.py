"""The rules: from a parsed script to the statements that are run, or to the reason why they are not.

Everything here is pure. `HANDLERS` names what is supported; whatever is not in it is refused. The rules keep two
promises: what a constraint says holds for the whole table although each partition checks only itself, and a partition
can be built again on another shard from the recorded statements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from postgast import pg_query_pb2 as pb

from shardpool.ddl.changes import owner_of_comment, plan_alter, plan_comment, plan_rename
from shardpool.ddl.create_table import plan_create_table
from shardpool.ddl.drops import plan_drop
from shardpool.ddl.history import History
from shardpool.ddl.objects import (
    plan_alter_enum,
    plan_create_function,
    plan_create_index,
    plan_create_trigger,
    plan_create_type,
)
from shardpool.ddl.planning import Planning, kind_of
from shardpool.ddl.refusals import refuse
from shardpool.ddl.script import ParsedStatement, created_tables
from shardpool.ddl.statement import DdlStatement, Owner
from shardpool.ddl.tree import digest, strings
from shardpool.ddl.views import plan_create_view
from shardpool.topology.tables import Reference, Sharded, TableKind, Tables

Handler = Callable[[Planning, ParsedStatement], list[DdlStatement]]

HANDLERS: Mapping[str, Handler] = {
    "create_stmt": plan_create_table,
    "view_stmt": plan_create_view,
    "alter_table_stmt": plan_alter,
    "rename_stmt": plan_rename,
    "index_stmt": plan_create_index,
    "create_trig_stmt": plan_create_trigger,
    "create_enum_stmt": plan_create_type,
    "composite_type_stmt": plan_create_type,
    "create_domain_stmt": plan_create_type,
    "alter_enum_stmt": plan_alter_enum,
    "create_function_stmt": plan_create_function,
    "drop_stmt": plan_drop,
    "comment_stmt": plan_comment,
}

#: What is refused with a reason of its own.
_REFUSED = {
    "transaction_stmt": "SP202",
    "select_stmt": "SP203",
    "insert_stmt": "SP203",
    "update_stmt": "SP203",
    "delete_stmt": "SP203",
    "merge_stmt": "SP203",
    "copy_stmt": "SP203",
    "truncate_stmt": "SP203",
    "alter_object_schema_stmt": "SP254",
}


def plan_statements(
    script: Sequence[ParsedStatement],
    declared: Mapping[str, TableKind],
    existing: Tables,
    keyspace: str,
    recorded: Sequence[DdlStatement] = (),
) -> tuple[DdlStatement, ...]:
    """Return what is to be run for *script*, where *recorded* was run before. Raise `SchemaError` for what may not be.

    *existing* are the tables of the catalog. Statements that were run before come back as `unchanged`.
    """
    _check_declarations(declared, existing)
    history = History.of(recorded, existing, keyspace)
    planning = Planning(keyspace, declared, history, _repeated(script, history))
    planned: list[DdlStatement] = []
    for statement in script:
        handler = HANDLERS.get(statement.kind)
        if handler is None:
            raise refuse(_REFUSED.get(statement.kind, "SP201"), line=statement.line, what=statement.what)
        for it in handler(planning, statement):
            planned.append(it)
            if not it.unchanged:
                history.fold(it, digest(statement.tree))
            for effect in it.effects:
                if effect.verb in ("create", "drop"):
                    planning.repeated.pop((effect.what, effect.name), None)
    created = created_tables(script)
    for name in declared:
        if name not in history.tables and name not in created:
            raise refuse("SP211", table=name)
    return tuple(planned)


def _check_declarations(declared: Mapping[str, TableKind], existing: Tables) -> None:
    for name, kind in declared.items():
        columns = kind.columns if isinstance(kind, Sharded) else None
        if not isinstance(kind, Sharded | Reference) or (
            columns is not None and (not columns or not all(columns) or len(set(columns)) < len(columns))
        ):
            raise refuse("SP213", table=name, got=repr(kind))
        if name in existing:
            expected = kind_of(existing[name])
            if (expected.columns if isinstance(expected, Sharded) else None) != columns:
                raise refuse("SP212", table=name, got=repr(kind), expected=repr(expected))
            got, known = (dict(it.unique) if isinstance(it, Sharded) else {} for it in (kind, expected))
            if got != known:
                raise refuse("SP214", table=name, got=", ".join(got) or "none", expected=", ".join(known) or "none")


def _repeated(script: Sequence[ParsedStatement], history: History) -> dict[Owner, int]:
    """Return, per owner, how many of the script's changes repeat the latest recorded ones."""
    marks: dict[Owner, list[str]] = {}
    for statement in script:
        owner = owner_of(statement)
        if owner is not None:
            marks.setdefault(owner, []).append(digest(statement.tree))
    return {owner: history.already_done(owner, found) for owner, found in marks.items()}


def owner_of(statement: ParsedStatement) -> Owner | None:
    """Return what a statement changes; None for those that create or drop."""
    tree = statement.tree
    if isinstance(tree, pb.AlterTableStmt):
        return ("index" if tree.objtype == pb.OBJECT_INDEX else "table"), tree.relation.relname
    if isinstance(tree, pb.RenameStmt):
        return ("index" if tree.rename_type == pb.OBJECT_INDEX else "table"), tree.relation.relname
    if isinstance(tree, pb.AlterEnumStmt):
        return "type", strings(tree.type_name)[-1]
    if isinstance(tree, pb.CommentStmt):
        return owner_of_comment(tree)
    return None
