"""Acting as the role that owns a keyspace on a shard: what administrators create or move stays the application's."""

from __future__ import annotations

from typing import Any

_ACT = """
SELECT set_config('role', r.rolname, false) FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
WHERE n.nspname = %s AND r.rolname <> current_user
"""


def act_as_owner(connection: Any, keyspace: str) -> None:
    """Have the session act as the owner of the keyspace's schema, if there is one, from the transaction's commit on.

    Raise psycopg2's `InsufficientPrivilege` if the role is no member of it.
    """
    with connection.cursor() as cursor:
        cursor.execute(_ACT, (keyspace,))
