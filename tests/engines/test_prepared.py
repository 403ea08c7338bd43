"""Statements that a pooled session keeps prepared."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest

from shardpool.config import parse_config
from shardpool.engines import Engines, prepared
from shardpool.engines.prepared import PREPARED_AT, SessionCursor

NAMES = "SELECT name FROM pg_prepared_statements ORDER BY name"


@pytest.fixture
def engines(server_urls: list[str]) -> Iterator[Engines]:
    url = server_urls[0]
    found = Engines(parse_config({"keyspace": "shop", "partitions": 1, "catalog": url, "shards": {"s0": {"url": url}}}))
    yield found
    found.close()


@pytest.fixture
def session(engines: Engines) -> Iterator[SessionCursor]:
    pool = engines.pool("s0")
    entry = pool.lease()
    yield entry.info["cursor"]
    pool.discard(entry)


def names(session: SessionCursor) -> list[str]:
    session.execute(NAMES)
    return [name for (name,) in session.fetchall()]


def often(session: SessionCursor, statement: str) -> list[str | None]:
    return [session.prepared("int", statement) for _ in range(PREPARED_AT + 1)]


def test_what_is_used_often_is_prepared_for_each_path(session: SessionCursor) -> None:
    seldom = [None] * (PREPARED_AT - 1)
    assert often(session, "SELECT $1 + 1") == [*seldom, "shardpool_0", "shardpool_0"]
    assert often(session, "SELECT $1 + 2") == [*seldom, "shardpool_1", "shardpool_1"]
    session.path = "SET LOCAL search_path TO pg_catalog; "
    assert often(session, "SELECT $1 + 1") == [*seldom, "shardpool_2", "shardpool_2"]
    session.path = ""
    assert session.prepared("int", "SELECT $1 + 1") == "shardpool_0"
    assert names(session) == ["shardpool_0", "shardpool_1", "shardpool_2"]
    session.execute("EXECUTE shardpool_1 (40)")
    assert session.fetchone() == (42,)


def test_a_session_keeps_a_bounded_number(session: SessionCursor) -> None:
    session.limit = 3
    for number in range(3):
        often(session, f"SELECT $1 + {number}")
    assert len(names(session)) == 3
    assert session.prepared("int", "SELECT $1 + 3") is None
    assert names(session) == []
    name = often(session, "SELECT $1 + 3")[-1]
    assert names(session) == [name]
    session.limit = 0
    assert often(session, "SELECT $1 + 4")[-1] is None


def test_what_failed_is_not_taken_for_prepared(session: SessionCursor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "PREPARED_AT", 1)
    for _ in range(2):
        with pytest.raises(psycopg2.errors.SyntaxError):
            session.prepared("int", "SELECTED $1")
    name = session.prepared("int", "SELECT $1")
    assert names(session) == [name]


def test_a_session_that_was_reset_has_none(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "PREPARED_AT", 1)
    pool = engines.pool("s0")
    for _ in range(2):
        entry = pool.lease()
        assert names(entry.info["cursor"]) == []
        assert entry.info["cursor"].prepared("int", "SELECT $1") is not None
        pool.give_back(entry)
        with engines.borrow("s0"):
            pass
    assert pool.stats().opened == 1
