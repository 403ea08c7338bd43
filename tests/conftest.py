"""Fixtures for all tests: servers once per run, databases and a cluster once per module."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from shardpool import Config, Router, parse_config
from shardpool.bulk import foreground
from tests.support.backends import databases, servers

# In the background, or under nohup, these are ignored, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

SHOP_DDL = """
CREATE TABLE country (code text PRIMARY KEY, name text NOT NULL);
CREATE TABLE customers (
    customer_id bigint PRIMARY KEY, name text NOT NULL, country text REFERENCES country, joined date
);
CREATE TABLE orders (
    customer_id bigint NOT NULL REFERENCES customers, order_id bigint NOT NULL, total numeric(10,2), note text,
    PRIMARY KEY (customer_id, order_id)
);
CREATE FUNCTION number_of_orders() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM orders); END';
"""


@pytest.fixture(scope="session", autouse=True)
def hurry() -> None:
    """Moves do not rest beside the tests' writers, or there would be fewer of them in the same time."""
    foreground.BESIDE_OTHERS = 1.0


@pytest.fixture(scope="session")
def server_urls() -> Iterator[list[str]]:
    """Three servers for all tests that do not stop or kill theirs."""
    with servers(3) as urls:
        yield urls


@pytest.fixture(scope="module")
def config(server_urls: list[str]) -> Iterator[Config]:
    """A cluster of three empty shards in databases of this module's own."""
    with databases(server_urls) as urls:
        document = {
            "keyspace": "shop",
            "partitions": 8,
            "catalog": urls[0],
            "shards": {f"s{number}": {"url": url} for number, url in enumerate(urls)},
            "tables": {
                "country": {"reference": True},
                "customers": {"key": "customer_id"},
                "orders": {"key": "customer_id"},
            },
        }
        found = parse_config(document, source="test")
        Router.initialise(found)
        yield found


@pytest.fixture(scope="module")
def shop(config: Config) -> Iterator[Router]:
    """A router over the shop's tables."""
    with Router(config) as router:
        router.create_schema(SHOP_DDL)
        yield router
