"""Ids of transactions, and the names under which their parts are prepared."""

from __future__ import annotations

import itertools
import os
import re
import time
from functools import cache
from typing import NamedTuple

from shardpool.topology.names import quote

#: How the names begin that the sessions of one transaction on several shards share: by them a deadlock is seen. The
#: rest grows with the time at which it began, and of a deadlock the greatest is the victim.
SESSIONS = "shardpool tx "

#: Before what must outlive a crash, and a failover to a synchronous standby, whatever the role's default is.
DURABLE = "SET LOCAL synchronous_commit = on"

_PREFIX = "shardpool:tx:"
_ID = re.compile(r"([a-z][a-z0-9_]{0,39}):([a-z0-9][a-z0-9_-]{0,39}):([0-9a-f]{32})")


#: What tells this process from others that ask for an id in the same nanosecond.
_process = ""
_numbers = itertools.count()


class TransactionId(NamedTuple):
    """``<keyspace>:<decider>:<token>``, as users see it. The token: time, random digits, a number."""

    keyspace: str
    decider: str
    token: str

    def __str__(self) -> str:
        return f"{self.keyspace}:{self.decider}:{self.token}"

    def gid(self, number: int) -> str:
        """Return the name (< 200 bytes) of the part with this number: unique also where shards share a server."""
        return f"{gid_prefix(self.keyspace)}{self.decider}:{self.token}:{number}"


def new_id(keyspace: str, decider: str) -> TransactionId:
    """Return an id that nobody has. Ids grow with time, so that records are written side by side into their index:
    random ones touch a page each, which PostgreSQL logs as a whole after every checkpoint."""
    return TransactionId(keyspace, decider, f"{time.time_ns():016x}{_process}{next(_numbers) & 0xFFFF:04x}")


def _begin_process() -> None:
    global _process
    _process = os.urandom(6).hex()


_begin_process()
os.register_at_fork(after_in_child=_begin_process)


def parse_id(text: str) -> TransactionId:
    """Read an id. Raise `ValueError` if it is none."""
    found = _ID.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not the id of a transaction, expected <keyspace>:<shard>:<token>")
    return TransactionId(*found.groups())


def gid_prefix(keyspace: str) -> str:
    """Return how the gids of a keyspace begin."""
    return f"{_PREFIX}{keyspace}:"


def parse_gid(gid: str) -> TransactionId | None:
    """Return the transaction of a prepared part, or None if it is not one of ours."""
    head, _, number = gid.removeprefix(_PREFIX).rpartition(":")
    if not gid.startswith(_PREFIX) or not number.isdigit():
        return None
    try:
        return parse_id(head)
    except ValueError:
        return None


@cache
def records_table(keyspace: str) -> str:
    """Return the qualified, quoted name of the table of decisions, which is on every shard."""
    return f"{quote(keyspace)}.shardpool_transaction"


@cache
def gate_table(keyspace: str) -> str:
    """Return the qualified, quoted name of the empty table that committing transactions and snapshots lock."""
    return f"{quote(keyspace)}.shardpool_gate"


@cache
def enter_gate(keyspace: str) -> str:
    """Return the statement with which a transaction of several shards keeps snapshots off until it is committed."""
    return f"LOCK TABLE {gate_table(keyspace)} IN ROW EXCLUSIVE MODE; "


def enter_record(transaction: TransactionId) -> str:
    """Return the statement that enters the decision to commit. Ids need no escaping."""
    return f"INSERT INTO {records_table(transaction.keyspace)} (id, committed) VALUES ('{transaction}', true)"


@cache
def record_of(keyspace: str) -> str:
    """Return what `enter_record` does, to be prepared with the id as a text."""
    return f"INSERT INTO {records_table(keyspace)} (id, committed) VALUES ($1, true)"


def create_records(keyspace: str) -> str:
    """Return the statements that create these tables if they are missing."""
    return (
        f"CREATE TABLE IF NOT EXISTS {gate_table(keyspace)} (); "
        f'CREATE TABLE IF NOT EXISTS {records_table(keyspace)} (id text COLLATE "C" PRIMARY KEY, '
        "committed boolean NOT NULL, decided_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
