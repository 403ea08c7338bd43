"""What transactions cost, against the same statements in plain psycopg2 transactions, taken in turn.

plain       one psycopg2 connection: UPDATE, COMMIT
same words  one psycopg2 connection that sends what the router does: with the search path, and with COMMIT the record
one shard   router.transaction() with that UPDATE
two plain   two psycopg2 connections: UPDATE and COMMIT on each, after one another
two shards  router.transaction() with both UPDATEs, committed in two phases
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from rich.console import Console
from rich.table import Table as RichTable

from shardpool import Router, Sharded
from shardpool.local import LocalCluster
from shardpool.two_phase.names import enter_record, new_id
from tests.support.backends import plain_connection

CALLS = 200
ROUNDS = 7
UPDATE = "UPDATE {}accounts SET amount = amount + 1 WHERE account_id = "
_next = count()


def candidates(router: Router, urls: dict[str, str], keys: dict[str, list[int]]) -> dict[str, Callable[[], object]]:
    """Calls of one client, which uses the accounts *keys*, by shard."""
    plain = {shard: plain_connection(url) for shard, url in urls.items()}
    for connection in plain.values():
        connection.autocommit = False
    schemas = {key: router.partition_of(key).schema for found in keys.values() for key in found}
    shards = sorted(urls)

    def pick(shard: str) -> int:
        return keys[shard][next(_next) % len(keys[shard])]

    def plain_update(shard: str) -> None:
        key = pick(shard)
        with plain[shard].cursor() as cursor:
            cursor.execute(UPDATE.format(schemas[key] + ".") + "%(key)s", {"key": key})
        plain[shard].commit()

    bare = plain_connection(urls[shards[0]])

    def same_words() -> None:
        key = pick(shards[0])
        with bare.cursor() as cursor:
            path = f"SET LOCAL search_path TO {schemas[key]}, bench, public; "
            cursor.execute("BEGIN; " + path + UPDATE.format("") + "%(key)s", {"key": key})
        with bare.cursor() as cursor:
            cursor.execute(f"{enter_record(new_id('bench', shards[0]))}; COMMIT")

    def routed(*wanted: str) -> None:
        with router.transaction() as tx:
            for shard in wanted:
                key = pick(shard)
                tx.execute(key, UPDATE.format("") + ":key", {"key": key})

    return {
        "plain": lambda: plain_update(shards[0]),
        "same words": same_words,
        "one shard": lambda: routed(shards[0]),
        "two plain": lambda: [plain_update(shard) for shard in shards],
        "two shards": lambda: routed(*shards),
    }


def measure(clients: list[dict[str, Callable[[], object]]]) -> dict[str, list[float]]:
    """Return microseconds per transaction and client of each round, the candidates taken in turn within a round."""
    times: dict[str, list[float]] = {name: [] for name in clients[0]}

    def work(call: Callable[[], object]) -> None:
        for _ in range(CALLS):
            call()

    with ThreadPoolExecutor(len(clients)) as pool:
        for _ in range(ROUNDS + 1):
            for name in times:
                start = time.perf_counter()
                list(pool.map(work, [client[name] for client in clients]))
                times[name].append((time.perf_counter() - start) / CALLS * 1e6)
    return {name: found[1:] for name, found in times.items()}


def main() -> None:
    table = RichTable(title=f"transactions of one UPDATE per shard, {ROUNDS} rounds of {CALLS:,} per client")
    for heading in ("", "clients", "us, median", "min", "x plain"):
        table.add_column(heading, justify="right")
    for durable in (True, False):
        with (
            tempfile.TemporaryDirectory() as directory,
            LocalCluster(2, 16, directory if durable else None, keyspace="bench") as cluster,
        ):
            _measure_cluster(cluster, table, "" if durable else ", fsync off")
    Console(width=100).print(table)


def _measure_cluster(cluster: LocalCluster, table: RichTable, how: str) -> None:
    with cluster.router() as router:
        router.create_schema(
            "CREATE TABLE accounts (account_id bigint PRIMARY KEY, amount bigint NOT NULL)",
            {"accounts": Sharded("account_id")},
        )
        router.copy_into("accounts", ((key, 0) for key in range(8000)))
        urls = {name: cluster.url(name) for name in cluster.names}
        for clients in (1, 4):
            keys = [
                {shard: [k for k in range(n, 8000, 4) if router.shard_of(k).name == shard] for shard in urls}
                for n in range(clients)
            ]
            times = measure([candidates(router, urls, found) for found in keys])
            for name, base in (
                ("plain", "plain"),
                ("same words", "plain"),
                ("one shard", "plain"),
                ("two plain", "two plain"),
                ("two shards", "two plain"),
            ):
                ratio = statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))
                found = times[name]
                table.add_row(
                    name + how, str(clients), f"{statistics.median(found):.0f}", f"{min(found):.0f}", f"{ratio:.2f}"
                )


if __name__ == "__main__":
    main()
