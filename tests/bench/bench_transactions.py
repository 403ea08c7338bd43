"""What transactions cost, against the same statements in plain psycopg2 transactions, taken in turn.

plain       one psycopg2 connection: UPDATE, COMMIT
same words  one psycopg2 connection that sends what the router does before it is prepared: with the search path, and
            with COMMIT the record
one shard   router.transaction() with that UPDATE
two plain   two psycopg2 connections: UPDATE and COMMIT on each, after one another
two shards  router.transaction() with both UPDATEs, committed in two phases
plain B     psycopg2: the five statements of pgbench's transaction, like TPC-B, on the rows of one branch
shard B     router.transaction() with them

The servers are on this machine, where a message costs next to nothing; then as far away as those of a managed service.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count

from rich.console import Console
from rich.table import Table as RichTable

from shardpool import Router, Sharded, parse_config
from shardpool.local import LocalCluster
from shardpool.two_phase.names import enter_record, new_id
from tests.bench import pgbench
from tests.support.backends import plain_connection
from tests.support.distance import at_a_distance

#: Transactions of each client in a round.
CALLS = 100
ROUNDS = 9
#: Seconds of a message to a server in another building of the same provider, and back.
ROUND_TRIP = 0.0005
UPDATE = "UPDATE {}accounts SET amount = amount + 1 WHERE account_id = "
_next = count()


def candidates(router: Router, urls: dict[str, str], keys: dict[str, list[int]]) -> dict[str, Callable[[], object]]:
    """Calls of one client, which uses the accounts *keys*, by shard."""
    plain = {shard: plain_connection(url) for shard, url in urls.items()}
    for connection in plain.values():
        connection.autocommit = False
    schemas = {key: router.partition_of(key).schema for found in keys.values() for key in found}
    shards = sorted(urls)

    branch = next(key for key in keys[shards[0]] if key < pgbench.BRANCHES)

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
        "plain B": pgbench.plain(plain[shards[0]], schemas[branch], branch, _next),
        "shard B": pgbench.routed(router, branch, _next),
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
    table = RichTable(title=f"transactions, {ROUNDS} rounds of {CALLS:,} per client")
    for heading in ("", "clients", "us, median", "min", "x plain"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as directory, _loaded(directory) as cluster, ExitStack() as stack:
        near = {name: cluster.url(name) for name in cluster.names}
        _measure_over(near, table, "")
        far = {name: stack.enter_context(at_a_distance(url, ROUND_TRIP)) for name, url in near.items()}
        _measure_over(far, table, f", {ROUND_TRIP * 1000:g} ms away")
    with _loaded(None) as cluster:
        _measure_over({name: cluster.url(name) for name in cluster.names}, table, ", fsync off")
    Console(width=100).print(table)


@contextmanager
def _loaded(directory: str | None) -> Iterator[LocalCluster]:
    with LocalCluster(2, 16, directory, keyspace="bench") as cluster:
        with cluster.router() as router:
            router.create_schema(
                "CREATE TABLE accounts (account_id bigint PRIMARY KEY, amount bigint NOT NULL)",
                {"accounts": Sharded("account_id")},
            )
            router.copy_into("accounts", ((key, 0) for key in range(8000)))
            pgbench.load(router)
        yield cluster


def _measure_over(urls: dict[str, str], table: RichTable, how: str) -> None:
    shards = {name: {"url": url} for name, url in urls.items()}
    document = {"keyspace": "bench", "partitions": 16, "catalog": urls[min(urls)], "shards": shards}
    with Router(parse_config(document, source="bench")) as router:
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
                ("plain B", "plain B"),
                ("shard B", "plain B"),
            ):
                ratio = statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))
                found = times[name]
                table.add_row(
                    name + how, str(clients), f"{statistics.median(found):.0f}", f"{min(found):.0f}", f"{ratio:.2f}"
                )


if __name__ == "__main__":
    main()
