"""Which mode a move takes, and why."""

from __future__ import annotations

from typing import Any, Literal

from shardpool.errors import PreflightFailed
from shardpool.moves.record import Mode
from shardpool.router import Router

Wanted = Literal["auto", "block", "trigger"]


def choose_mode(router: Router, source: str, target: str, wanted: Wanted) -> tuple[Mode, str]:
    """Return the mode and the reason. Raise `PreflightFailed` if the wanted one cannot be had, `ShardUnavailable`."""
    if wanted == "block":
        return "block", "asked for"
    denied = []
    for shard in (source, target):
        with router.engines.borrow(shard) as connection:
            if not _ask(connection, "SELECT has_database_privilege(current_database(), 'TEMPORARY')"):
                denied.append(
                    f"the role may not create temporary tables on shard {shard} (GRANT TEMPORARY ON DATABASE)"
                )
    if denied and wanted == "trigger":
        raise PreflightFailed(denied)
    if denied:
        return "block", "; ".join(denied)
    return "trigger", "asked for" if wanted == "trigger" else "its writers go on, and wait only for the cutover"


def _ask(connection: Any, query: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return bool(cursor.fetchone()[0])
