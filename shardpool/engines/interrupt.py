"""Ending what other threads do on connections of the pools, whether their servers answer or not."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

import psycopg2

from shardpool.engines.pool import owners
from shardpool.errors import ShardUnavailable

#: A cancellation that finds a session between two statements is lost: it is repeated at this interval, in seconds.
INTERVAL = 0.1
#: Seconds after which a statement that does not react to its cancellation loses its connection.
PATIENCE = 5.0

#: A role that acts as another one (``ALTER ROLE .. SET role``) sees and ends its own sessions only as itself.
AS_LOGGED_IN = "SET ROLE NONE; "

_CANCEL = f"{AS_LOGGED_IN}SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = %s AND client_port = %s"


def cancel(connection: Any) -> None:
    """Interrupt the statement that runs on a connection, if its server answers within the connect timeout.

    The driver's own way stops all threads of this process until the server has answered it, which one that hangs
    never does. It is left for connections that the server knows by another port: those behind a pooler.
    """
    pool = owners[connection]
    try:
        entry = pool.open_apart()
    except ShardUnavailable:
        return
    asking: Any = entry.dbapi_connection
    try:
        with asking.cursor() as cursor:
            cursor.execute(_CANCEL, (connection.get_backend_pid(), _own_port(connection)))
            if not cursor.rowcount:
                connection.cancel()
    except psycopg2.Error:
        return  # it has ended by itself
    finally:
        pool.close_apart(entry)


def cut(connection: Any) -> None:
    """Shut the socket, so that a server that does not answer cannot hold the thread that waits for it."""
    with suppress(OSError, psycopg2.Error), socket.socket(fileno=os.dup(connection.fileno())) as link:
        link.shutdown(socket.SHUT_RDWR)


def end_all(running: Mapping[Future[Any], Any]) -> None:
    """Cancel what threads do, each on its connection; cut connections in the end. Return when all have ended."""
    patience = time.monotonic() + PATIENCE
    left = {future for future in running if not future.done()}
    while left:
        for future in left:
            if time.monotonic() < patience:
                cancel(running[future])
            else:
                cut(running[future])
        _, left = wait(left, INTERVAL)


def _own_port(connection: Any) -> int:
    """Return the port from which a connection is made; -1, as the server says, for one without."""
    with socket.socket(fileno=os.dup(connection.fileno())) as own:
        return int(own.getsockname()[1]) if own.family != socket.AF_UNIX else -1
