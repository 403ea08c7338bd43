"""The user's own words, with names pointed at a partition: edits at the byte positions of names, nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import postgast
from postgast import pg_query_pb2 as pb

from shardpool.planner.ast import column_fields, walk
from shardpool.planner.plan import SCHEMA_MARKER
from shardpool.planner.statement import Edit, Statement
from shardpool.topology.names import quote
from shardpool.topology.tables import Tables


def unqualified(statement: Statement, keyspace: str) -> str:
    """The statement without the keyspace's name before tables: the search path finds them."""
    return statement.render(_strip_keyspace(statement, keyspace))


def partition_template(statement: Statement, keyspace: str, tables: Tables, skip: frozenset[str]) -> tuple[str, ...]:
    """The statement in pieces; joined by a schema's quoted name and a dot, the sharded tables are read there.

    *skip* are the names of CTEs: bare names that mean no table.
    """
    edits = _strip_keyspace(statement, keyspace)
    for node in walk(statement.node):
        if isinstance(node, pb.RangeVar) and node.relname in tables and tables[node.relname].sharded:
            if node.schemaname == keyspace:
                start = next(end for begin, end, _ in edits if begin == node.location)
            elif not node.schemaname and node.relname not in skip:
                start = node.location
            else:
                continue
            edits.append((start, start, SCHEMA_MARKER))
    return tuple(statement.render(edits).split(SCHEMA_MARKER))


def in_partition(template: tuple[str, ...], schema: str) -> str:
    return (quote(schema) + ".").join(template)


def cte_names(statement: Statement) -> frozenset[str]:
    return frozenset(node.ctename for node in walk(statement.node) if isinstance(node, pb.CommonTableExpr))


def _strip_keyspace(statement: Statement, keyspace: str) -> list[Edit]:
    starts = list(_qualified(statement, keyspace))
    if not starts:
        return []
    tokens = [token for token in postgast.scan(statement.numbered).tokens if not _is_comment(token)]
    places = {token.start: index for index, token in enumerate(tokens)}
    # keyspace, dot, name: cut up to the name.
    return [(start, tokens[places[start] + 2].start, "") for start in starts]


def _qualified(statement: Statement, keyspace: str) -> Iterator[int]:
    for node in walk(statement.node):
        if isinstance(node, pb.RangeVar) and node.schemaname == keyspace and not node.catalogname:
            yield node.location
        elif isinstance(node, pb.ColumnRef):
            parts = column_fields(node)
            if len(parts) == 3 and parts[0] == keyspace:
                yield node.location


def _is_comment(token: pb.ScanToken) -> bool:
    return token.token in (pb.SQL_COMMENT, pb.C_COMMENT)
