"""Rights that other roles were given on a partition's schema, tables, views and columns: they travel with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shardpool.moves.move import Move
from shardpool.topology.names import quote

# What the owner has is not told; grantee 0 is PUBLIC.
_GRANTS = """
WITH s AS (SELECT * FROM pg_namespace WHERE nspname = %s),
     t AS (SELECT c.* FROM pg_class c JOIN s ON s.oid = c.relnamespace WHERE c.relkind IN ('r', 'v'))
SELECT '', '', a.privilege_type, r.rolname, a.is_grantable
FROM s CROSS JOIN aclexplode(s.nspacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE a.grantee <> s.nspowner
UNION ALL
SELECT t.relname, '', a.privilege_type, r.rolname, a.is_grantable
FROM t CROSS JOIN aclexplode(t.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE a.grantee <> t.relowner
UNION ALL
SELECT t.relname, k.attname, a.privilege_type, r.rolname, a.is_grantable
FROM t JOIN pg_attribute k ON k.attrelid = t.oid AND NOT k.attisdropped CROSS JOIN aclexplode(k.attacl) a
LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE a.grantee <> t.relowner
ORDER BY 1, 2, 4, 3
"""


@dataclass(frozen=True)
class Grant:
    """A right on the schema (no table), a table (no column) or a column. `grantee` is None for PUBLIC."""

    table: str
    column: str
    privilege: str
    grantee: str | None
    grantable: bool

    def statement(self, schema: str) -> str:
        """Return the GRANT for it in *schema*."""
        option = " WITH GRANT OPTION" if self.grantable else ""
        return f"GRANT {self._what(schema)} TO {self._whom}{option}"

    def revoking(self, schema: str) -> str:
        """Return the REVOKE for it in *schema*."""
        return f"REVOKE {self._what(schema)} FROM {self._whom}"

    def _what(self, schema: str) -> str:
        what = f"TABLE {quote(schema)}.{quote(self.table)}" if self.table else f"SCHEMA {quote(schema)}"
        columns = f" ({quote(self.column)})" if self.column else ""
        return f"{self.privilege}{columns} ON {what}"

    @property
    def _whom(self) -> str:
        return "PUBLIC" if self.grantee is None else quote(self.grantee)


def read_grants(connection: Any, schema: str) -> list[Grant]:
    """Return the rights that others than the owners have in *schema*."""
    with connection.cursor() as cursor:
        cursor.execute(_GRANTS, (schema,))
        return [Grant(*row) for row in cursor.fetchall()]


def carry_grants(move: Move) -> None:
    """Give others the rights on the target that they have on its sources, in its transaction; and take away any more,
    such as come of default privileges."""
    record, target = move.record, move.servers.target
    legs = [leg for leg in move.legs if leg.record.result == record.result]
    wanted = {grant for leg in legs for grant in read_grants(leg.servers.source, leg.record.schema)}
    surplus = set(read_grants(target, record.incoming)) - wanted
    with target.cursor() as cursor:
        for grant in surplus:
            cursor.execute(grant.revoking(record.incoming))
        for grant in wanted:
            cursor.execute(grant.statement(record.incoming))


def missing_roles(connection: Any, grants: Iterable[Grant]) -> list[str]:
    """Return the roles that have rights and do not exist on this server."""
    names = {grant.grantee for grant in grants if grant.grantee is not None}
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (sorted(names),))
        return sorted(names - {name for (name,) in cursor.fetchall()})
