"""The outcome of a load over several shards: one row of the catalog, for which the load and its resolvers race.

Each shard prepares its transaction under ``shardpool:load:<keyspace>:<id>:<shard>``. The load is committed by inserting
``(shardpool:load:<keyspace>:<id>, committed = true)`` into ``shardpool_catalog.load_decision``. Whoever finds prepared
transactions of a load without a row, and must not wait for it, inserts ``committed = false`` first; the primary key
lets one of the two win. Hence time limits decide how soon a load is resolved, never how.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg2
from psycopg2 import errors
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from shardpool.catalog import Catalog
from shardpool.errors import CatalogUnavailable, ExecutionError, LoadError, LoadInDoubt

if TYPE_CHECKING:
    from shardpool.engines import Engines

log = logging.getLogger(__name__)

_ATTEMPTS = 3
_PAUSE = wait_exponential(multiplier=0.1, max=1.0)


@dataclass(frozen=True)
class Resolved:
    """A prepared transaction that `resolve_loads` finished."""

    shard: str
    gid: str
    committed: bool


def new_load(keyspace: str, label: str = "") -> str:
    """Return a fresh id of a load: the first four parts of its shards' gids. *label* (no colon) begins the last one."""
    return f"{load_prefix(keyspace, label)}{uuid.uuid4().hex}"


def prepared_gid(load: str, shard: str) -> str:
    """Return the gid (< 200 bytes) of a load's transaction on *shard*."""
    return f"{load}:{shard}"


def load_prefix(keyspace: str, label: str = "") -> str:
    """Return how the ids of a keyspace's loads begin; of those with *label*."""
    return f"shardpool:load:{keyspace}:{label}"


def decide_commit(catalog: Catalog, gid: str) -> None:
    """Decide that the load *gid* is committed. All its shards must have prepared.

    Raise `LoadError` if a resolver decided otherwise before; `LoadInDoubt` if the catalog does not tell what it has.
    """
    statement = text(
        "INSERT INTO shardpool_catalog.load_decision (gid, keyspace, committed) VALUES (:gid, :keyspace, true)"
    )
    try:
        with catalog.begin() as connection:
            connection.execute(statement, {"gid": gid, "keyspace": catalog.keyspace})
        return
    except IntegrityError as error:
        raise _aborted(gid) from error
    except (CatalogUnavailable, DBAPIError) as error:
        # The row may or may not be there.
        try:
            committed = decision(catalog, gid)
        except (CatalogUnavailable, DBAPIError):
            raise LoadInDoubt(
                f"load {gid} is prepared on all its shards, but the catalog did not tell whether it took the decision "
                f"({error}); resolve_loads will commit or roll back everywhere once the catalog answers"
            ) from error
    if not committed:
        raise _aborted(gid)


def _aborted(gid: str) -> LoadError:
    return LoadError(f"load {gid} was rolled back: it took so long to commit that a resolver decided against it")


@retry(
    retry=retry_if_exception_type((CatalogUnavailable, DBAPIError)),
    stop=stop_after_attempt(_ATTEMPTS),
    wait=_PAUSE,
    reraise=True,
)
def decision(catalog: Catalog, gid: str) -> bool:
    """Return whether the load *gid* is committed. Without a decision yet, it is decided here: rolled back."""
    values = {"gid": gid, "keyspace": catalog.keyspace}
    with catalog.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO shardpool_catalog.load_decision (gid, keyspace, committed) "
                "VALUES (:gid, :keyspace, false) ON CONFLICT (gid) DO NOTHING"
            ),
            values,
        )
        query = text("SELECT committed FROM shardpool_catalog.load_decision WHERE gid = :gid")
        return bool(connection.execute(query, values).scalar_one())


def resolve_loads(
    catalog: Catalog, engines: Engines, shard_names: Iterable[str], older_than: float = 60.0, label: str = ""
) -> list[Resolved]:
    """Finish the loads of this keyspace whose process died, or lost a shard, while they committed.

    Looks on each shard for transactions prepared more than *older_than* seconds ago, for loads with *label*. A shard
    that does not answer is left for the next time, with a warning. Raise `CatalogUnavailable`.
    """
    resolved = []
    for shard in shard_names:
        try:
            for gid in _prepared(engines, shard, load_prefix(catalog.keyspace, label), older_than):
                # The gid ends with the shard's name as the loader knew it, which has no colon before it.
                committed = decision(catalog, ":".join(gid.split(":", 4)[:4]))
                finish_prepared(engines, shard, gid, commit=committed)
                resolved.append(Resolved(shard, gid, committed))
        except (ExecutionError, psycopg2.Error) as error:
            log.warning("loads on shard %s could not be resolved: %s", shard, error)
    return resolved


def _prepared(engines: Engines, shard: str, prefix: str, older_than: float) -> list[str]:
    query = (
        "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, %s) "
        "AND prepared < now() - make_interval(secs => %s) ORDER BY prepared"
    )
    with engines.borrow(shard) as connection, connection.cursor() as cursor:
        cursor.execute(query, (prefix, older_than))
        return [gid for (gid,) in cursor.fetchall()]


@retry(
    retry=retry_if_exception_type((ExecutionError, psycopg2.Error)),
    stop=stop_after_attempt(_ATTEMPTS),
    wait=_PAUSE,
    reraise=True,
)
def finish_prepared(engines: Engines, shard: str, gid: str, *, commit: bool) -> None:
    """Finish a prepared transaction on a connection of its own; one that is finished already is fine.

    Raise `ShardUnavailable` or psycopg2's errors when repeated attempts fail.
    """
    with engines.borrow(shard) as connection:
        try:
            if commit:
                connection.tpc_commit(gid)
            else:
                connection.tpc_rollback(gid)
        except errors.UndefinedObject:
            pass
