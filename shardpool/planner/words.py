"""The user's own words, with tables pointed at where they are read: edits at the positions of names, nothing else.

A reference table may keep the keyspace's name before it: that schema is on every shard. Before a sharded table it gives
way to the partition's schema, or to ``pg_temp`` where the table was gathered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import postgast
from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import Tree, column_fields, walk
from shardpool.planner.plan import SCHEMA_MARKER
from shardpool.planner.statement import Edit, Statement
from shardpool.topology.shard_map import Topology

#: The user's words in pieces: joined by a schema's quoted name and a dot they are a statement for its partition.
Template = tuple[str, ...]


def over_gathered(statement: Statement, topology: Topology, *, everything: bool = False) -> str:
    """The statement for the merge node, where sharded tables, or *everything*, are temporary tables of their own
    names.
    """
    names = topology.tables if everything else topology.sharded_names
    return statement.render(_edits(statement, topology, "pg_temp.", names))


def on_search_path(statement: Statement, topology: Topology, marks: Iterable[Edit] = ()) -> Template:
    """The statement for a session whose search path has the partition: only qualified names are changed, and *marks*
    are made."""
    return _pieces(statement, [*_edits(statement, topology, SCHEMA_MARKER), *marks])


def in_partition(statement: Statement, topology: Topology, occurrences: Iterable[Tree]) -> Template:
    """The statement with every sharded table qualified; *occurrences* are the RangeVars that mean tables."""
    edits = _edits(statement, topology, SCHEMA_MARKER)
    for node in occurrences:
        if not node.schemaname and topology.tables[node.relname].sharded:
            edits.append((node.location, node.location, SCHEMA_MARKER))
    return _pieces(statement, edits)


def _pieces(statement: Statement, edits: list[Edit]) -> Template:
    return tuple(statement.render(edits).split(SCHEMA_MARKER))


def _edits(statement: Statement, topology: Topology, schema: str, tables: Collection[str] | None = None) -> list[Edit]:
    """Replace the keyspace's name before *tables*, the sharded ones, by *schema*, and cut it off before columns."""
    found = list(_qualified(statement, topology, topology.sharded_names if tables is None else tables))
    if not found:
        return []
    tokens = [token for token in postgast.scan(statement.numbered).tokens if not _is_comment(token)]
    places = {token.start: index for index, token in enumerate(tokens)}
    # keyspace, dot, name: all up to the name is replaced.
    return [(start, tokens[places[start] + 2].start, schema if is_table else "") for start, is_table in found]


def _qualified(statement: Statement, topology: Topology, tables: Collection[str]) -> Iterator[tuple[int, bool]]:
    for node in walk(statement.node):
        if isinstance(node, pb.RangeVar) and node.schemaname == topology.keyspace and not node.catalogname:
            if node.relname in tables:
                yield node.location, True
        elif isinstance(node, pb.ColumnRef):
            parts = column_fields(node)
            if len(parts) == 3 and parts[0] == topology.keyspace:
                yield node.location, False


def _is_comment(token: pb.ScanToken) -> bool:
    return token.token in (pb.SQL_COMMENT, pb.C_COMMENT)
