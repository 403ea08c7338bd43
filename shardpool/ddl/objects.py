"""Indexes, triggers, types and functions: CREATE, and the changes that are simple enough to repeat anywhere."""

from __future__ import annotations

import re

import postgast
from postgast import pg_query_pb2 as pb

from shardpool.ddl.columns import check_no_sequence, check_same_everywhere
from shardpool.ddl.foreign_keys import constraint_name
from shardpool.ddl.keys import check_unique, plain_columns
from shardpool.ddl.planning import Planning, scope_of, unchanged
from shardpool.ddl.refusals import refuse
from shardpool.ddl.script import ParsedStatement, respell, without_if_not_exists, words
from shardpool.ddl.statement import DdlStatement, Effect
from shardpool.ddl.tree import digest, find, strings, type_name
from shardpool.planner.depth import parsed

_INPUTS = (pb.FUNC_PARAM_IN, pb.FUNC_PARAM_INOUT, pb.FUNC_PARAM_VARIADIC, pb.FUNC_PARAM_DEFAULT)


def plan_create_index(planning: Planning, statement: ParsedStatement) -> list[DdlStatement]:
    index = statement.tree
    assert isinstance(index, pb.IndexStmt)
    if index.concurrent:
        raise refuse("SP204", line=statement.line, what="CREATE INDEX")
    table = planning.table(index.relation.relname, statement.line)
    if index.table_space:
        raise refuse("SP222", line=statement.line, table=table.name)
    planning.check_new_name(index.idxname, statement.line)
    if index.idxname:
        if planning.created_before(statement, "index", index.idxname, table.name):
            return unchanged(statement)
        if planning.history.current("index", index.idxname):
            raise refuse("SP251", line=statement.line, what="index", name=index.idxname)
    elif planning.history.has_index_of(table.name, digest(index)):
        return unchanged(statement)
    if index.unique and table.sharded:
        check_unique(table, f"unique index {index.idxname!r}", plain_columns(index.index_params))
    named = _with_name(planning, without_if_not_exists(statement))
    name = named.tree.idxname if isinstance(named.tree, pb.IndexStmt) else ""
    effect = Effect("create", "index", name, table.name)
    return [DdlStatement(named.text, scope_of(table), True, statement.text, effects=(effect,))]


def _with_name(planning: Planning, statement: ParsedStatement) -> ParsedStatement:
    """Give an index a name that it is known by afterwards: the one that PostgreSQL would choose."""
    index = statement.tree
    assert isinstance(index, pb.IndexStmt)
    if index.idxname:
        return statement
    elements = [node.index_elem for node in [*index.index_params, *index.index_including_params]]
    taken = {it.name for it in planning.history.objects if it.what in ("index", "table")}
    tree = pb.IndexStmt()
    tree.CopyFrom(index)
    tree.idxname = constraint_name(index.relation.relname, [it.name or "expr" for it in elements], taken, "idx")
    # The name goes before the first ON.
    place = next(start for word, start, _ in words(statement.text) if word == "on")
    data, name = statement.text.encode(), '"' + tree.idxname.replace('"', '""') + '" '
    text = respell((data[:place] + name.encode() + data[place:]).decode(), statement.kind, tree)
    if text is None:
        raise refuse("SP245", line=statement.line, table=index.relation.relname)
    return ParsedStatement(text, statement.kind, tree, statement.line)


def plan_create_trigger(planning: Planning, statement: ParsedStatement) -> list[DdlStatement]:
    trigger = statement.tree
    assert isinstance(trigger, pb.CreateTrigStmt)
    table = planning.table(trigger.relation.relname, statement.line)
    if not table.sharded:
        raise refuse("SP255", line=statement.line, name=trigger.trigname, table=table.name)
    if trigger.HasField("constrrel"):
        planning.table(trigger.constrrel.relname, statement.line)
    planning.check_new_name(trigger.trigname, statement.line)
    if planning.created_before(statement, "trigger", trigger.trigname, table.name):
        return unchanged(statement)
    effect = Effect("create", "trigger", trigger.trigname, table.name)
    return [DdlStatement(statement.text, "partition", True, statement.text, effects=(effect,))]


def plan_create_type(planning: Planning, statement: ParsedStatement) -> list[DdlStatement]:
    name = _new_type(statement)
    planning.check_new_name(name, statement.line)
    if isinstance(statement.tree, pb.CreateDomainStmt):
        for node in statement.tree.constraints:
            if node.constraint.contype == pb.CONSTR_DEFAULT:
                place = f"domain {name!r}, which a reference table may use,"
                check_no_sequence(node.constraint.raw_expr, place, statement.line)
                check_same_everywhere(node.constraint.raw_expr, place, False, statement.line)
    if planning.created_before(statement, "type", name):
        return unchanged(statement)
    if name in planning.history.tables or name in planning.declared:
        raise refuse("SP225", line=statement.line, name=name)
    if name in planning.history.views:
        raise refuse("SP258", line=statement.line, name=name, what="view")
    effects = (Effect("create", "type", name),)
    return [DdlStatement(statement.text, "shard", source=statement.text, effects=effects)]


def _new_type(statement: ParsedStatement) -> str:
    tree = statement.tree
    if isinstance(tree, pb.CreateEnumStmt):
        return strings(tree.type_name)[-1]
    if isinstance(tree, pb.CreateDomainStmt):
        return strings(tree.domainname)[-1]
    assert isinstance(tree, pb.CompositeTypeStmt)
    return str(tree.typevar.relname)


def plan_alter_enum(planning: Planning, statement: ParsedStatement) -> list[DdlStatement]:
    alter = statement.tree
    assert isinstance(alter, pb.AlterEnumStmt)
    name = strings(alter.type_name)[-1]
    if not planning.history.current("type", name):
        raise refuse("SP250", line=statement.line, what="type", name=name)
    if planning.changed_before(("type", name)):
        return unchanged(statement)
    effects = (Effect("change", "type", name),)
    return [DdlStatement(statement.text, "shard", source=statement.text, effects=effects)]


def plan_create_function(planning: Planning, statement: ParsedStatement) -> list[DdlStatement]:
    function = statement.tree
    assert isinstance(function, pb.CreateFunctionStmt)
    plain = strings(function.funcname)[-1]
    planning.check_new_name(plain, statement.line)
    _check_body(planning, function, plain, statement.line)
    types = [it.function_parameter for it in function.parameters]
    name = signature(plain, [it.arg_type for it in types if it.mode in _INPUTS])
    if planning.created_before(statement, "function", name):
        return unchanged(statement)
    effects = (Effect("create", "function", name),)
    return [DdlStatement(statement.text, "shard", source=statement.text, effects=effects)]


def signature(name: str, types: list[pb.TypeName]) -> str:
    """Return a function's name with its input types, which together tell it from its namesakes."""
    return f"{name}({', '.join(type_name(it) for it in types)})"


def _check_body(planning: Planning, function: pb.CreateFunctionStmt, name: str, line: int) -> None:
    """A body that is bound to tables when it is created, or that names them by schema, works in no partition.

    The server does not check bodies in SQL here (see `ShardSession.execute`), so that the grammar does it.
    """
    if function.HasField("sql_body") and any(find(function.sql_body, pb.RangeVar)):
        reason = "is bound to tables when it is created, outside of any partition"
        raise refuse("SP256", line=line, name=name, reason=reason)
    language = _language(function)
    for option in function.options:
        if option.def_elem.defname == "as":
            for body in strings(option.def_elem.arg.list.items):
                if language == "sql":
                    _check_grammar(body, name, line)
                _check_body_text(planning, body, name, line)


def is_sql_function(text: str) -> bool:
    """Whether a CREATE FUNCTION has a body in SQL."""
    function = parsed(text).stmts[0].stmt.create_function_stmt
    return _language(function) == "sql"


def _language(function: pb.CreateFunctionStmt) -> str:
    named = (it.def_elem.arg.string.sval for it in function.options if it.def_elem.defname == "language")
    return next(named, "sql")


def _check_grammar(body: str, name: str, line: int) -> None:
    try:
        parsed(body)
    except postgast.PgQueryError as error:
        raise refuse("SP200", line=line, reason=f"function {name!r}: {error.message}") from error


def _check_body_text(planning: Planning, body: str, name: str, line: int) -> None:
    try:
        tokens = [word for word, _, _ in words(body)]
    except postgast.PgQueryError:
        return  # another language than SQL
    sharded = {table for table, it in planning.history.tables.items() if it.sharded}
    partition = re.compile(re.escape(planning.keyspace) + r"_p\d{4,}")
    for schema, dot, table in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if dot == "." and ((schema == planning.keyspace and table in sharded) or partition.fullmatch(schema)):
            raise refuse("SP256", line=line, name=name, reason=f"names {schema}.{table}, which is not there")
