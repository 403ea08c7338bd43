"""Views: CREATE [OR REPLACE] VIEW, and the definitions that servers give of them, for the planner.

A view over sharded tables is created in every partition, any other in the keyspace's schema. What a query over all
partitions puts in its place is not the user's text but what a server prints of the view: there all stars are columns,
and columns that were renamed have their new names. So all views are read again after each schema change, and each is
tried: a view that `Router.query` would refuse is not created.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from postgast import pg_query_pb2 as pb

from shardpool.ddl.history import History
from shardpool.ddl.planning import Planning, scope_of, unchanged
from shardpool.ddl.refusals import refuse
from shardpool.ddl.script import ParsedStatement
from shardpool.ddl.statement import DdlStatement, Effect, Scope
from shardpool.ddl.tree import canonical, find
from shardpool.errors import InvalidSQL, PlanError, RoutingError
from shardpool.planner.depth import parsed
from shardpool.planner.ladder import compile_query
from shardpool.planner.statement import from_text
from shardpool.planner.views import expanded, qualifier_cuts, relations_read
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import View

#: What begins like this may be read as a date or time.
_MOMENT = re.compile(r"\s*(now|today|tomorrow|yesterday)\b", re.IGNORECASE)

#: The views of a schema by name: their columns, and their definitions with all names outside pg_catalog qualified.
VIEWS = """
SELECT c.relname, ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
                        ORDER BY a.attnum), rtrim(pg_get_viewdef(c.oid), ';')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind = 'v' AND c.relname = ANY(%s)
ORDER BY 1
"""


def plan_create_view(planning: Planning, statement: ParsedStatement) -> list[DdlStatement]:
    create = statement.tree
    assert isinstance(create, pb.ViewStmt)
    name, line = create.view.relname, statement.line
    _check_form(create, line)
    _check_moments(create, line)
    planning.check_new_name(name, line)
    for what in ("table", "type"):
        if planning.history.current(what, name):
            raise refuse("SP258", line=line, name=name, what=what)
    scope = _scope(planning, create, line)
    if planning.created_before(statement, "view", name):
        return unchanged(statement, scope)
    if planning.history.views.get(name, scope) != scope:
        raise refuse("SP257", line=line, name=name, reason="moves between partitions and the keyspace: drop it first")
    return [DdlStatement(statement.text, scope, source=statement.text, effects=(Effect("create", "view", name),))]


def _check_form(create: pb.ViewStmt, line: int) -> None:
    forms = (
        ("is temporary", create.view.relpersistence == "t"),
        ("is unlogged", create.view.relpersistence == "u"),
        ("has a CHECK OPTION, and is not written", create.with_check_option != pb.NO_CHECK_OPTION),
        ("has options, which a query over all partitions could not keep", len(create.options) > 0),
    )
    for reason, used in forms:
        if used:
            raise refuse("SP257", line=line, name=create.view.relname, reason=reason)


def _check_moments(create: pb.ViewStmt, line: int) -> None:
    """PostgreSQL reads 'now' as a date or time when a view is created: later in a partition that has moved."""
    for constant in find(create, pb.A_Const):
        if _MOMENT.match(constant.sval.sval):
            reason = f"has {constant.sval.sval!r}, the moment at which each partition gets the view: use now()"
            raise refuse("SP257", line=line, name=create.view.relname, reason=reason)


def _scope(planning: Planning, create: pb.ViewStmt, line: int) -> Scope:
    """Where the view belongs. Raise `SchemaError` if it reads anything but the keyspace's tables and views."""
    scopes: set[Scope] = set()
    for node in relations_read(create.query):
        name = node.range_var.relname
        if name in planning.history.views:
            scopes.add(planning.history.views[name])
        elif name in planning.history.tables:
            scopes.add(scope_of(planning.history.tables[name]))
        else:
            raise refuse("SP250", line=line, what="table or view", name=name)
    return "partition" if "partition" in scopes else "shard"


# -- as the servers have them -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Printed:
    """A view as a server prints it: what it reads is in the schema `schema`, or in the keyspace's."""

    name: str
    columns: Sequence[str]
    definition: str
    schema: str


def known_views(history: History, printed: Sequence[Printed], topology: Topology) -> list[View]:
    """Return the views of *history* as the planner needs them. Raise `SchemaError` for one that it could not answer.

    *topology* has the tables as they will be.
    """
    found = [_named_by_keyspace(it, topology.keyspace, history.views[it.name]) for it in printed]
    views = {view.name: view for view in found}
    missing = history.views.keys() - views.keys()
    if missing:
        raise refuse("SP270", name=sorted(missing)[0], reason="the shard that was asked does not have it")
    check_answerable(views, topology)
    return found


def check_answerable(views: Mapping[str, View], topology: Topology) -> None:
    """Raise `SchemaError` for a view that `Router.query` would refuse, or answer with other columns."""
    future = replace(topology, views=views)
    for view in views.values():
        statement = from_text(f"SELECT * FROM {quote(topology.keyspace)}.{quote(view.name)}")
        try:
            compiled = compile_query(expanded(statement, future), future)
        except (PlanError, RoutingError, InvalidSQL) as error:
            raise refuse("SP270", name=view.name, reason=error) from error
        if compiled.locks is not None:
            raise refuse("SP270", name=view.name, reason=f"it locks rows (FOR {compiled.locks.words})")
        columns = compiled.analysis.scopes[0].columns
        if columns is not None and columns != view.columns:
            raise refuse("SP270", name=view.name, reason=f"its columns {view.columns} would be {columns}")


def _named_by_keyspace(printed: Printed, keyspace: str, scope: Scope) -> View:
    """Put the keyspace's name in place of the partition's, with a proof."""
    text, tree = printed.definition.strip(), parsed(printed.definition.strip())
    own = [it for it in relations_read(tree.stmts[0].stmt) if it.range_var.schemaname == printed.schema]
    data = text.encode()
    for start, end in sorted(qualifier_cuts(text, iter(own)), reverse=True):
        data = data[:start] + f"{quote(keyspace)}.".encode() + data[end:]
    for node in own:
        node.range_var.schemaname = keyspace
    changed = data.decode()
    if canonical(parsed(changed)) != canonical(tree):
        raise refuse("SP270", name=printed.name, reason="its definition cannot be proven to be the same elsewhere")
    return View(printed.name, tuple(printed.columns), changed, scope == "partition")
