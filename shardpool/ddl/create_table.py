"""CREATE TABLE: its form, its columns, its constraints, and its foreign keys as statements of their own."""

from __future__ import annotations

from dataclasses import replace

from postgast import pg_query_pb2 as pb

from shardpool.ddl.columns import check_column, column_of
from shardpool.ddl.foreign_keys import (
    add_constraint,
    check_foreign_key,
    foreign_key,
    foreign_key_effects,
    take_from_column,
)
from shardpool.ddl.keys import check_exclusion, check_key, check_reservations, check_unique
from shardpool.ddl.planning import Planning, kind_of, scope_of, unchanged
from shardpool.ddl.refusals import refuse
from shardpool.ddl.script import ParsedStatement, generate, without_if_not_exists
from shardpool.ddl.statement import DdlStatement, Effect
from shardpool.ddl.tree import find, strings
from shardpool.topology.tables import Sharded, Table

_UNIQUE = {pb.CONSTR_PRIMARY: "PRIMARY KEY", pb.CONSTR_UNIQUE: "UNIQUE"}


def plan_create_table(planning: Planning, statement: ParsedStatement) -> list[DdlStatement]:
    create = statement.tree
    assert isinstance(create, pb.CreateStmt)
    name = create.relation.relname
    _check_form(create, statement.line)
    planning.check_new_name(name, statement.line)
    if planning.created_before(statement, "table", name):
        return unchanged(statement)
    if planning.history.current("type", name):
        raise refuse("SP225", line=statement.line, name=name)
    if name in planning.history.views:
        raise refuse("SP258", line=statement.line, name=name, what="view")
    table = _table(planning, create, statement.line)
    scope, kinds = scope_of(table), {name: kind_of(table)}
    without, keys = take_foreign_keys(statement)
    for key in keys:
        check_foreign_key(table, foreign_key(key), {**planning.history.tables, name: table}, statement.line)
    planning.history.tables[name] = table
    created = (Effect("create", "table", name),)
    first = DdlStatement(without.text, scope, source=statement.text, tables=kinds, effects=created)
    return [first, *_foreign_key_statements(planning, statement, table, keys)]


def _check_form(create: pb.CreateStmt, line: int) -> None:
    name = create.relation.relname
    if create.relation.relpersistence != "p":
        what = "temporary" if create.relation.relpersistence == "t" else "unlogged"
        raise refuse("SP220", line=line, table=name, what=what)
    forms = (
        ("PARTITION OF", create.HasField("partbound")),
        ("INHERITS", len(create.inh_relations) > 0),
        ("PARTITION BY", create.HasField("partspec")),
        ("OF a type", create.HasField("of_typename")),
        ("LIKE", any(node.HasField("table_like_clause") for node in create.table_elts)),
    )
    for what, used in forms:
        if used:
            raise refuse("SP221", line=line, table=name, what=what)
    if create.tablespacename or any(it.indexspace for it in find(create, pb.Constraint)):
        raise refuse("SP222", line=line, table=name)


def _table(planning: Planning, create: pb.CreateStmt, line: int) -> Table:
    """Return the table that is created, checked but for its foreign keys."""
    name = create.relation.relname
    kind = planning.declared.get(name)
    if kind is None:
        raise refuse("SP210", line=line, table=name)
    definitions = [node.column_def for node in create.table_elts if node.HasField("column_def")]
    for definition in definitions:
        check_column(definition, name, not isinstance(kind, Sharded), added=False, line=line)
    constraints = constraints_of(create)
    not_null = {column for it in constraints if it.contype == pb.CONSTR_NOTNULL for column in strings(it.keys)}
    columns = [column_of(it) for it in definitions]
    table = Table(
        name=name,
        columns=tuple(replace(it, not_null=it.not_null or it.name in not_null) for it in columns),
        primary_key=next((tuple(strings(it.keys)) for it in constraints if it.contype == pb.CONSTR_PRIMARY), ()),
        key=kind.columns if isinstance(kind, Sharded) else (),
        unique=tuple(sorted(kind.unique.items())) if isinstance(kind, Sharded) else (),
    )
    if table.sharded:
        table = replace(table, key_types=check_key(table, line))
    for constraint in constraints:
        check_constraint(table, constraint)
    check_reservations(planning.history.tables, table, line)
    return table


def constraints_of(create: pb.CreateStmt) -> list[pb.Constraint]:
    """Return all constraints of a table in the form that names their columns."""
    found = []
    for node in create.table_elts:
        if node.HasField("constraint"):
            found.append(node.constraint)
        for child in node.column_def.constraints:
            constraint = pb.Constraint()
            constraint.CopyFrom(child.constraint)
            constraint.keys.add().string.sval = node.column_def.colname
            found.append(constraint)
    return found


def check_constraint(table: Table, constraint: pb.Constraint) -> None:
    """Raise `SchemaError` for a constraint that would hold per partition only."""
    if not table.sharded:
        return
    if constraint.contype in _UNIQUE:
        named = f" {constraint.conname!r}" if constraint.conname else ""
        columns = strings(constraint.keys)
        check_unique(table, f"{_UNIQUE[constraint.contype]}{named} ({', '.join(columns)})", columns)
    elif constraint.contype == pb.CONSTR_EXCLUSION:
        check_exclusion(table, constraint)


def take_foreign_keys(statement: ParsedStatement) -> tuple[ParsedStatement, list[pb.Constraint]]:
    """Return CREATE TABLE without IF NOT EXISTS and without foreign keys, and these as constraints of the table."""
    statement = without_if_not_exists(statement)
    create = pb.CreateStmt.FromString(statement.tree.SerializeToString())
    kept, keys = [], list[pb.Constraint]()
    for node in create.table_elts:
        if node.constraint.contype == pb.CONSTR_FOREIGN:
            # As PostgreSQL itself does: there are no rows yet, so that NOT VALID means nothing here.
            node.constraint.skip_validation = not node.constraint.is_enforced
            node.constraint.initially_valid = node.constraint.is_enforced
            keys.append(node.constraint)
            continue
        if node.HasField("column_def"):
            keys += take_from_column(node.column_def)
        kept.append(node)
    if not keys:
        return statement, []
    copies = [pb.Node.FromString(node.SerializeToString()) for node in kept]
    keys = [pb.Constraint.FromString(key.SerializeToString()) for key in keys]
    create.ClearField("table_elts")
    create.table_elts.extend(copies)
    text = generate(statement.kind, create)
    if text is None:
        raise refuse("SP245", line=statement.line, table=create.relation.relname)
    return ParsedStatement(text, statement.kind, create, statement.line), keys


def _foreign_key_statements(
    planning: Planning, statement: ParsedStatement, table: Table, keys: list[pb.Constraint]
) -> list[DdlStatement]:
    """Return ALTER TABLE .. ADD FOREIGN KEY for each of *keys*, for after the copy."""
    found = []
    for number, (key, effect) in enumerate(zip(keys, foreign_key_effects(planning, table, keys), strict=True), 1):
        alter = pb.AlterTableStmt(objtype=pb.OBJECT_TABLE)
        alter.relation.CopyFrom(pb.RangeVar(relname=table.name, inh=True, relpersistence="p"))
        alter.cmds.add().alter_table_cmd.CopyFrom(add_constraint(key))
        text = generate("alter_table_stmt", alter)
        if text is None:
            raise refuse("SP245", line=statement.line, table=table.name)
        planned = DdlStatement(
            text, scope_of(table), True, statement.text, number, {table.name: kind_of(table)}, (effect,)
        )
        found.append(planned)
    return found
