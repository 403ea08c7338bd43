"""Where the tests' PostgreSQL servers come from: `SHARDPOOL_TEST_BACKEND`.

embedded (default)
    `LocalCluster`, version 18 or `SHARDPOOL_TEST_PG_VERSION` (16).
containers
    testcontainers, one container per server; needs a Docker engine.
urls
    Existing servers, `SHARDPOOL_TEST_URLS`: URLs separated by spaces, whose role may create databases.

Every group of tests gets databases of its own on these servers, dropped at the end, so that several runs go at once.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg2
from sqlalchemy.engine import make_url

from shardpool.local import LocalCluster


@contextmanager
def servers(count: int) -> Iterator[list[str]]:
    """Give the URLs of *count* servers."""
    match os.environ.get("SHARDPOOL_TEST_BACKEND", "embedded"):
        case "embedded":
            version = int(os.environ.get("SHARDPOOL_TEST_PG_VERSION", "18"))
            with LocalCluster(shards=count, version=version) as cluster:
                yield [cluster.url(name) for name in cluster.names]
        case "containers":
            with _containers(count) as urls:
                yield urls
        case "urls":
            urls = os.environ["SHARDPOOL_TEST_URLS"].split()
            assert len(urls) >= count, f"SHARDPOOL_TEST_URLS names {len(urls)} servers, the tests need {count}"
            yield urls[:count]
        case other:
            raise ValueError(f"SHARDPOOL_TEST_BACKEND={other!r}, expected embedded, containers or urls")


@contextmanager
def _containers(count: int) -> Iterator[list[str]]:
    from testcontainers.postgres import PostgresContainer

    command = "postgres -c wal_level=logical -c max_prepared_transactions=100 -c max_connections=200"
    with ExitStack() as stack:
        found = [stack.enter_context(PostgresContainer("postgres:18").with_command(command)) for _ in range(count)]
        yield [container.get_connection_url() for container in found]


@contextmanager
def databases(urls: list[str]) -> Iterator[list[str]]:
    """Create a database of a new name on each server; give their URLs; drop them at the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    for url in urls:
        _run(url, f"CREATE DATABASE {name}")
    try:
        yield [make_url(url).set(database=name).render_as_string(hide_password=False) for url in urls]
    finally:
        for url in urls:
            _run(url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def plain_connection(url: str) -> psycopg2.extensions.connection:
    """Connect to a database directly, in autocommit mode."""
    parsed = make_url(url)
    connection = psycopg2.connect(
        host=parsed.host, port=parsed.port, user=parsed.username, password=parsed.password, dbname=parsed.database
    )
    connection.autocommit = True
    return connection


def _run(url: str, statement: str) -> None:
    connection = plain_connection(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()
