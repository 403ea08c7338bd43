"""Ending what runs on a connection in another thread, whether its server answers or not."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

import psycopg2


def cut(connection: Any) -> None:
    """Shut the socket, so that a server that does not answer cannot hold the thread that waits for it."""
    with suppress(OSError, psycopg2.Error), socket.socket(fileno=os.dup(connection.fileno())) as link:
        link.shutdown(socket.SHUT_RDWR)
