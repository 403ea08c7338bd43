"""Views: a statement that names them becomes the one that has their definitions in their places.

PostgreSQL does the same before it plans. Here it is done before any analysis, as text, so that whatever comes after it
sees subqueries in FROM and nothing else. The text is proven: it must parse to the tree of the statement in which each
name of a view, and nothing else, was replaced by the tree of its definition. A view of views is replaced in rounds.

Definitions name the tables of the keyspace with its name, so that a CTE of the statement around them cannot get in
between; where there is none of such a name, the bare name is written, as in the user's own words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import postgast
from postgast import pg_query_pb2 as pb

from shardpool.errors import InvalidSQL
from shardpool.planner.ast import Tree, children, column_fields, is_a, names, parse, walk
from shardpool.planner.positions import same
from shardpool.planner.refusals import refuse
from shardpool.planner.statement import Edit, Statement
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology

#: Views over views over views: beyond that a view refers to itself.
MAX_LEVELS = 12

_WRITES = (pb.InsertStmt, pb.UpdateStmt, pb.DeleteStmt, pb.MergeStmt)
#: What gives the same for a record as for a row of a view.
_BLIND_TO_TYPES = {(name,) for name in ("count", "to_json", "to_jsonb", "row_to_json", "json_agg", "jsonb_agg")}
#: Lists of relations that are no items of FROM: FOR UPDATE OF, and TRUNCATE.
_NOT_READ = ("with_clause", "locked_rels", "relations")


def expanded(statement: Statement, topology: Topology) -> Statement:
    """Return *statement* with all views replaced. Raise `UnsupportedStatement` where that is not proven, or for writes
    to a view.
    """
    if not _may_name_views(statement.numbered, topology):
        return statement
    refuse_writes(statement.node, topology)
    for _ in range(MAX_LEVELS):
        uses = [node.range_var for node in _uses(statement.node, topology)]
        if not uses:
            return statement
        statement = _replaced(statement, uses, topology)
        if not any(_may_name_views(topology.views[use.relname].definition, topology) for use in uses):
            return statement
    raise refuse("SP142", uses[0].relname)


def _may_name_views(text: str, topology: Topology) -> bool:
    """Whether a view's name stands anywhere in a text, or could in another spelling."""
    if not topology.views:
        return False
    lowered = text.encode().lower()
    return b'""' in lowered or b'u&"' in lowered or any(name.encode().lower() in lowered for name in topology.views)


def refuse_writes(statement: Tree, topology: Topology) -> None:
    """Raise `UnsupportedStatement` if *statement* writes a view, be it one that PostgreSQL could pass on to a table."""
    for node in walk(statement) if topology.views else ():
        written = []
        if isinstance(node, _WRITES):
            written = [node.relation]
        elif isinstance(node, pb.TruncateStmt):
            written = [it.range_var for it in node.relations]
        for relation in written:
            if _names_view(relation, topology):
                raise refuse("SP140", relation.relname)


def relations_read(message: Tree, ctes: frozenset[str] = frozenset()) -> Iterator[Tree]:
    """Yield the nodes of *message*, at any depth, that name relations to read; *ctes* hide the names that they have."""
    if isinstance(message, pb.Node):
        inner = message.WhichOneof("node")
        if inner == "range_var":
            if message.range_var.schemaname or message.range_var.relname not in ctes:
                yield message
        elif inner is not None:
            yield from relations_read(getattr(message, inner), ctes)
        return
    if "with_clause" in message.DESCRIPTOR.fields_by_name and message.HasField("with_clause"):
        yield from _read_by_ctes(message.with_clause, ctes)
        ctes |= {it.common_table_expr.ctename for it in message.with_clause.ctes}
    for field, value in message.ListFields():
        if field.message_type is not None and field.name not in _NOT_READ:
            for item in value if field.is_repeated else (value,):
                yield from relations_read(item, ctes)


def qualifier_cuts(text: str, relations: Iterator[Tree]) -> list[tuple[int, int]]:
    """Return the byte ranges in *text* of the schemas, with their dots, before *relations*."""
    tokens, places = _tokens(text)
    starts = [relation.range_var.location for relation in relations]
    return [(start, tokens[places[start] + 2].start) for start in starts]


def _read_by_ctes(clause: Tree, ctes: frozenset[str]) -> Iterator[Tree]:
    if clause.recursive:
        ctes |= {it.common_table_expr.ctename for it in clause.ctes}
    for node in clause.ctes:
        yield from relations_read(node, ctes)
        ctes |= {node.common_table_expr.ctename}


def _uses(message: Tree, topology: Topology) -> Iterator[Tree]:
    return (node for node in relations_read(message) if _names_view(node.range_var, topology))


def _names_view(relation: Tree, topology: Topology) -> bool:
    own = relation.schemaname in ("", topology.keyspace) and not relation.catalogname
    return own and relation.relname in topology.views


# -- one round --------------------------------------------------------------------------------------------------------


def _replaced(statement: Statement, uses: list[Tree], topology: Topology) -> Statement:
    """Put definitions in the places of *uses*, with the proof."""
    nodes = list(walk(statement.node))
    _check_whole_rows(nodes, uses, topology)
    tokens, places = _tokens(statement.numbered)
    ctes = frozenset(it.ctename for it in nodes if isinstance(it, pb.CommonTableExpr))
    edits: list[Edit] = []
    for use in uses:
        first = places.get(use.location)
        if first is None:
            raise refuse("SP141", use.relname)
        last = first + (2 if use.schemaname else 0)
        edits += _around(tokens, first, last)
        alias = "" if use.HasField("alias") else f" AS {quote(use.relname)}"
        definition = _definition(topology.views[use.relname].definition, ctes, topology.keyspace)
        edits.append((tokens[first].start, tokens[last].end, f"({definition}){alias}"))
    for node in _columns_by_schema(nodes, topology):
        first = places[node.location]
        edits.append((tokens[first].start, tokens[first + 2].start, ""))
    changed = statement.edited(edits)
    try:
        proven = same(changed.node, _meant(statement, ctes, topology))
    except InvalidSQL:
        proven = False
    if not proven:
        raise refuse("SP141", uses[0].relname)
    return changed


def _around(tokens: list[pb.ScanToken], first: int, last: int) -> Iterator[Edit]:
    """Take away what a table has and a subquery has not: ONLY, a star after the name, TABLE in place of SELECT."""
    following = tokens[last + 1].token if last + 1 < len(tokens) else None
    before = [token.token for token in tokens[max(first - 2, 0) : first]]
    removed: list[int] = []
    if before[-1:] == [pb.ONLY]:
        removed = [first - 1]
    elif before == [pb.ONLY, pb.ASCII_40]:
        removed = [first - 2, first - 1, last + 1]
    elif following == pb.ASCII_42:
        removed = [last + 1]
    yield from ((tokens[place].start, tokens[place].end, "") for place in removed)
    place = min([first, *removed]) - 1
    if place >= 0 and tokens[place].token == pb.TABLE:
        yield tokens[place].start, tokens[place].end, "SELECT * FROM"


def _meant(statement: Statement, ctes: frozenset[str], topology: Topology) -> Tree:
    """The statement's tree with the trees of the definitions in it."""
    tree = pb.Node()
    tree.CopyFrom(statement.node)
    for column in list(_columns_by_schema(walk(tree), topology)):
        del column.fields[0]
    for node in list(_uses(tree, topology)):
        name, alias = node.range_var.relname, pb.Alias()
        alias.CopyFrom(node.range_var.alias)
        alias.aliasname = alias.aliasname or name
        definition = _definition(topology.views[name].definition, ctes, topology.keyspace)
        node.range_subselect.subquery.CopyFrom(_definition_tree(definition))
        node.range_subselect.alias.CopyFrom(alias)
    return tree


def _check_whole_rows(nodes: list[Tree], uses: list[Tree], topology: Topology) -> None:
    """Refuse ``SELECT f(v) FROM v``: the row of a subquery is a record, that of a view has a type of its own.

    As values they are alike, but what looks at the type sees the difference: pg_typeof, functions of the user, and a
    field of a row that was computed.
    """
    looking = topology.user_functions | {"pg_typeof"}
    if not any(_called(node) & looking or _takes_field(node) for node in nodes):
        return
    rows: dict[str, str] = {}
    for use in uses:
        view, alias = topology.views[use.relname], use.alias.aliasname or use.relname
        given = names(use.alias.colnames)
        if alias not in given + view.columns[len(given) :]:
            rows[alias] = view.name
    for parent in nodes:
        if isinstance(parent, pb.A_Indirection | pb.NullTest):
            continue
        if isinstance(parent, pb.FuncCall) and names(parent.funcname) in _BLIND_TO_TYPES:
            continue
        for child in children(parent):
            if isinstance(child, pb.ColumnRef) and len(child.fields) == 1 and column_fields(child)[0] in rows:
                raise refuse("SP143", rows[column_fields(child)[0]])


def _called(node: Tree) -> set[str]:
    """The functions that a node may call: ``v.f`` may be f(v), too."""
    if isinstance(node, pb.FuncCall):
        return {names(node.funcname)[-1]}
    if isinstance(node, pb.ColumnRef) and len(node.fields) > 1:
        return {column_fields(node)[-1]}
    return set()


def _takes_field(node: Tree) -> bool:
    """Whether it is ``(f(x)).field`` or so; that of a row of FROM, ``(v).field``, is found in a record, too."""
    if not isinstance(node, pb.A_Indirection) or is_a(node.arg, "column_ref"):
        return False
    return any(is_a(step, "string") or is_a(step, "a_star") for step in node.indirection)


def _columns_by_schema(nodes: Iterable[Tree], topology: Topology) -> Iterator[Tree]:
    """ColumnRefs that name a view with its schema: a subquery has none."""
    for node in nodes:
        if isinstance(node, pb.ColumnRef):
            parts = column_fields(node)
            if len(parts) == 3 and parts[0] == topology.keyspace and parts[1] in topology.views:
                yield node


@lru_cache(maxsize=1000)
def _definition(definition: str, ctes: frozenset[str], keyspace: str) -> str:
    """A view's definition with bare names wherever neither its own CTEs nor *ctes* have them."""
    tree = parse(definition)
    hidden = ctes | {it.ctename for it in walk(tree) if isinstance(it, pb.CommonTableExpr)}
    qualified = (
        node
        for node in relations_read(tree.stmts[0].stmt)
        if node.range_var.schemaname == keyspace and node.range_var.relname not in hidden
    )
    data = definition.encode()
    for start, end in sorted(qualifier_cuts(definition, qualified), reverse=True):
        data = data[:start] + data[end:]
    return data.decode()


@lru_cache(maxsize=1000)
def _definition_tree(definition: str) -> Tree:
    return parse(definition).stmts[0].stmt


def _tokens(text: str) -> tuple[list[pb.ScanToken], dict[int, int]]:
    """The tokens of a text without comments, and where in them each begins."""
    found = [it for it in postgast.scan(text).tokens if it.token not in (pb.SQL_COMMENT, pb.C_COMMENT)]
    return found, {token.start: index for index, token in enumerate(found)}
