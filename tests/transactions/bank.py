"""Accounts on three shards behind proxies: what the tests of lost messages and dying coordinators stand on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import make_url

from shardpool import Config, Router, Sharded, parse_config
from tests.support.backends import databases, plain_connection
from tests.support.proxy import Cut, Proxy

DDL = """
CREATE TABLE accounts (id bigint PRIMARY KEY, amount bigint NOT NULL);
CREATE TABLE transfers (id bigint, transfer text, PRIMARY KEY (id, transfer));
"""
TABLES = {"accounts": Sharded("id"), "transfers": Sharded("id")}
ACCOUNTS = 30
AMOUNT = 100


@dataclass(frozen=True)
class Bank:
    """`router` talks through `proxies` (by shard), the bank's own questions go straight to the servers."""

    config: Config
    router: Router
    proxies: dict[str, Proxy]
    urls: dict[str, str]
    direct: dict[str, Any]

    def keys(self) -> tuple[int, int, int]:
        """An account on each shard."""
        first = {self.router.shard_of(key).name: key for key in range(ACCOUNTS)}
        return first["s0"], first["s1"], first["s2"]

    def transfer(self, keys: Sequence[int], name: str) -> None:
        transfer_on(self.router, keys, name)

    def on(self, shard: str, query: str) -> list[tuple[Any, ...]]:
        with self.direct[shard].cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def each(self, query: str) -> list[tuple[Any, ...]]:
        return [row for shard in self.direct for row in self.on(shard, query)]

    def partitions(self, query: str) -> list[tuple[Any, ...]]:
        """Ask in every partition; {} stands for its schema."""
        placements = self.router.shard_map.placements
        return [row for it in placements for row in self.on(it.shard, query.format(it.partition.schema))]

    def total(self) -> int:
        return int(sum(amount or 0 for (amount,) in self.partitions("SELECT sum(amount) FROM {}.accounts")))

    def noted(self, name: str) -> int:
        """How many shards have the transfer."""
        return len(self.partitions(f"SELECT 1 FROM {{}}.transfers WHERE transfer = '{name}'"))

    def prepared(self) -> list[str]:
        query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND gid LIKE 'shardpool:%'"
        return [gid for (gid,) in self.each(query)]

    def lose(self, cut: Cut) -> Cut:
        for proxy in self.proxies.values():
            proxy.rules[:] = [cut]
        return cut

    def reconnect(self, shard: str) -> None:
        """After a restart of the server."""
        self.direct[shard].close()
        self.direct[shard] = plain_connection(self.urls[shard])

    def accept(self) -> None:
        """Let all messages pass again."""
        for proxy in self.proxies.values():
            proxy.rules.clear()
            proxy.refuse(False)


def transfer_on(router: Router, keys: Sequence[int], name: str) -> None:
    """Move one from the first account to each of the others, and note it beside each account."""
    with router.transaction() as tx:
        # In one order, so that no two wait for each other on two shards.
        for key in sorted(keys):
            amount = -(len(keys) - 1) if key == keys[0] else 1
            tx.execute(key, "UPDATE accounts SET amount = amount + :n WHERE id = :key", {"n": amount, "key": key})
            tx.execute(key, "INSERT INTO transfers VALUES (:key, :name)", {"key": key, "name": name})


@contextmanager
def open_bank(
    server_urls: list[str],
    create: Callable[[list[str]], AbstractContextManager[list[str]]] = databases,
    **pool: Any,
) -> Iterator[Bank]:
    """A bank in databases that *create* makes on the servers."""
    with ExitStack() as stack:
        urls = [make_url(url) for url in stack.enter_context(create(server_urls))]
        direct_urls = {f"s{number}": url.render_as_string(hide_password=False) for number, url in enumerate(urls)}
        proxies = {
            f"s{number}": stack.enter_context(Proxy(str(url.host), int(url.port or 5432)))
            for number, url in enumerate(urls)
        }
        document = {
            "keyspace": "bank",
            "partitions": 6,
            "catalog": direct_urls["s0"],
            "shards": {
                name: {"url": make_url(url).set(port=proxies[name].port).render_as_string(hide_password=False)}
                for name, url in direct_urls.items()
            },
            "pool": {"max_size": 20, **pool},
        }
        config = parse_config(document, source="test")
        Router.initialise(config)
        direct = {name: plain_connection(url) for name, url in direct_urls.items()}
        stack.callback(lambda: [connection.close() for connection in direct.values()])
        router = stack.enter_context(Router(config, listen=False))
        router.create_schema(DDL, TABLES)
        router.copy_into("accounts", ((key, AMOUNT) for key in range(ACCOUNTS)))
        yield Bank(config, router, proxies, direct_urls, direct)
