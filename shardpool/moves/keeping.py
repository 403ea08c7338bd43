"""Keeping the old side of a way back current, so that going back stays a cutover however much is written meanwhile.

Whoever looks after moves does it now and then, one process at a time. It holds no lock that a move waits for: one that
goes back, or gives the way back up, takes the move over and ends the sessions of this, as those of any process that
was left behind. What was not carried over by then is noted still.
"""

from __future__ import annotations

import logging
from contextlib import closing

import psycopg2
from sqlalchemy.exc import DBAPIError

from shardpool.errors import ShardpoolError
from shardpool.moves.capture import is_whole
from shardpool.moves.journal import Journal
from shardpool.moves.locks import way_back_locked
from shardpool.moves.move import Move
from shardpool.moves.online import FEW, catch_up
from shardpool.moves.progress import Meter
from shardpool.moves.record import MoveRecord
from shardpool.moves.servers import Servers
from shardpool.router import Router
from shardpool.topology.names import quote

log = logging.getLogger(__name__)


def keep_current(router: Router, record: MoveRecord) -> bool:
    """Carry over what a way back has noted, if it is much. Return whether that was done; failures are only logged."""
    try:
        if not _has_much(router, record):
            return False
        with way_back_locked(router, record.partition), closing(Servers(router, record)) as servers:
            Journal(router.catalog).check(record)
            move = Move(router, record, servers, Meter(record.partition, None))
            if not is_whole(move):
                return False  # who goes back will see that, and copy
            catch_up(move)
            return True
    except (ShardpoolError, psycopg2.Error, DBAPIError) as error:
        log.info("%s: the old side is not kept current now: %s", record, error)
        return False


def _has_much(router: Router, record: MoveRecord) -> bool:
    """Whether the triggers have noted more keys of any table than a cutover would carry over."""
    with router.engines.borrow(record.source) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relname ~ '^log_'",
            (quote(record.capture),),
        )
        for (name,) in cursor.fetchall():
            cursor.execute(f"SELECT FROM {quote(record.capture)}.{quote(name)} OFFSET {FEW} LIMIT 1")
            if cursor.rowcount:
                return True
    return False
