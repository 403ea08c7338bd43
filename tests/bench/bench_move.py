"""Moves under writers: how long they wait for partitions of several sizes, and megabytes per second beside pg_dump.

``python -m tests.bench.bench_move [share=1] [moves=20] [megabytes ...]``; without sizes 1, 16 and 128. With a share,
moves work for that part of the time; without, they make way for the writers by themselves.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich.console import Console
from rich.table import Table as RichTable

from shardpool import Config, Router, Sharded
from shardpool.config import MoveConfig
from shardpool.local import LocalCluster, binaries
from shardpool.moves import MoveReport, care_for_moves, move_partition
from shardpool.moves.modes import Wanted
from tests.support.backends import plain_connection

SIZES = (1, 16, 128)
WRITERS = 2
MODES: tuple[Wanted, ...] = ("trigger", "logical")
#: So often each mode has its turn.
ROUNDS = 2
#: Writers are alone before each move as long as the last one took, within these seconds.
ALONE = (0.5, 1.5)
ROW = 400
DDL = "CREATE TABLE lines (key bigint, number int, hits int NOT NULL DEFAULT 0, text text, PRIMARY KEY (key, number))"
SCHEMA = "bench_p0000"
#: Where writers write to all of them.
PARTITIONS = 16


def fill(router: Router, megabytes: int) -> int:
    """Fill partition 0 with rows of 400 bytes; return how many keys they have."""
    rows = megabytes * 1_000_000 // ROW
    with router.engines.borrow(router.shard_map.owner(0).name) as connection, connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {SCHEMA}.lines SELECT i %% 100, i / 100, 0, repeat(md5(i::text), 11) "
            "FROM generate_series(1, %s) i",
            (rows,),
        )
        connection.commit()
        connection.autocommit = True
        cursor.execute(f"VACUUM ANALYZE {SCHEMA}.lines")
        connection.autocommit = False
    return rows


@dataclass
class Written:
    """What writers did in some time: statements, seconds, and the seconds of the slowest statement."""

    statements: int = 0
    seconds: float = 0.0
    slowest: float = 0.0

    @property
    def rate(self) -> float:
        return self.statements / self.seconds


class Writers:
    """Writers in a process of their own that change rows of *keys* one by one, each of them those of other keys."""

    def __init__(self, router: Router, keys: Sequence[int]) -> None:
        context = multiprocessing.get_context("spawn")
        begun, self._ended, self._slowest = context.Event(), context.Event(), context.Queue()
        self._counts = context.RawArray("Q", WRITERS)
        self._process = context.Process(
            target=write_until, args=(router.config, keys, begun, self._ended, self._counts, self._slowest)
        )
        self._process.start()
        begun.wait(60)

    @contextmanager
    def counted(self, written: Written) -> Iterator[None]:
        """Add to *written* what is written during the block."""
        before, began = sum(self._counts), time.perf_counter()
        yield
        written.statements += sum(self._counts) - before
        written.seconds += time.perf_counter() - began

    def end(self) -> float:
        """Stop; return the seconds of the slowest statement."""
        self._ended.set()
        slowest = self._slowest.get(timeout=60)
        self._process.join()
        return float(slowest)


def write_until(config: Config, keys: Sequence[int], begun: Any, ended: Any, counts: Any, slowest: Any) -> None:
    latencies = [0.0] * WRITERS

    def write(router: Router, writer: int) -> None:
        for key, number in zip(itertools.cycle(keys[writer::WRITERS]), itertools.cycle(range(10))):
            if ended.is_set():
                return
            since = time.perf_counter()
            router.execute(
                key,
                "UPDATE lines SET hits = hits + 1 WHERE key = :key AND number = :number",
                {"key": key, "number": number},
            )
            counts[writer] += 1
            latencies[writer] = max(latencies[writer], time.perf_counter() - since)

    with Router(config) as router:
        router.execute(0, "SELECT 1 FROM lines LIMIT 1")
        threads = [threading.Thread(target=write, args=(router, writer)) for writer in range(WRITERS)]
        for thread in threads:
            thread.start()
        begun.set()
        for thread in threads:
            thread.join()
        slowest.put(max(latencies))


def move(router: Router, mode: Wanted = "trigger", partition: int = 0) -> MoveReport:
    source = router.shard_map.owner(partition).name
    return move_partition(router, partition, "s1" if source == "s0" else "s0", mode=mode)


def measure(router: Router, megabytes: int, moves: int) -> Iterator[list[str]]:
    """Yield rows of the table of pauses, one for each mode; these take turns."""
    count = moves if megabytes <= 32 else max(moves // 4, 3)
    alone = {mode: Written() for mode in MODES}
    beside = {mode: Written() for mode in MODES}
    reports: dict[Wanted, list[MoveReport]] = {mode: [] for mode in MODES}
    for _ in range(ROUNDS):
        for mode in MODES:
            writers, lasted = Writers(router, range(WRITERS)), ALONE[1]
            for _ in range(max(count // ROUNDS, 1)):
                with writers.counted(alone[mode]):
                    time.sleep(min(max(lasted, ALONE[0]), ALONE[1]))
                with writers.counted(beside[mode]):
                    reports[mode].append(move(router, mode))
                lasted = reports[mode][-1].seconds
            beside[mode].slowest = max(beside[mode].slowest, writers.end())
    for mode in MODES:
        slower = 1 - beside[mode].rate / alone[mode].rate
        yield [f"{megabytes} MB", mode, *figures(reports[mode], beside[mode].slowest), f"{slower:.0%}"]


def figures(reports: list[MoveReport], slowest: float) -> list[str]:
    pauses = sorted(it.pause * 1000 for it in reports)
    seconds = statistics.median(it.seconds for it in reports)
    return [
        str(len(reports)),
        f"{statistics.median(pauses):.0f}",
        f"{pauses[int(len(pauses) * 0.95)]:.0f}",
        f"{pauses[-1]:.0f}",
        f"{slowest * 1000:.0f}",
        f"{seconds:.2f}",
    ]


def of_all_partitions(share: float | Literal["auto"]) -> RichTable:
    """How much slower writers of all partitions get while one of these moves, and then the next."""
    table = RichTable(title=f"writers of {PARTITIONS} partitions of 4 MB, each of which moves, share {share}")
    for heading in ("mode", "statements a second", "beside moves", "slower by", "a move, s"):
        table.add_column(heading, justify="right")
    with LocalCluster(2, PARTITIONS, keyspace="bench", settings={"fsync": True}) as cluster, cluster.router() as router:
        router.config = replace(router.config, moves=MoveConfig(share=share))
        router.create_schema(DDL, {"lines": Sharded("key")})
        keys = range(PARTITIONS * 100)
        router.copy_into("lines", ((key, number, 0, "x" * 350) for key in keys for number in range(100)))
        for mode in MODES:
            alone, beside, seconds = Written(), Written(), []
            writers = Writers(router, keys)
            for partition in range(PARTITIONS):
                with writers.counted(alone):
                    time.sleep(ALONE[0])
                with writers.counted(beside):
                    seconds.append(move(router, mode, partition).seconds)
            writers.end()
            slower = f"{1 - beside.rate / alone.rate:.0%}"
            lasted = f"{statistics.median(seconds):.2f}"
            table.add_row(mode, f"{alone.rate:,.0f}", f"{beside.rate:,.0f}", slower, lasted)
    return table


# -- throughput -------------------------------------------------------------------------------------------------------


def piped(cluster: LocalCluster, router: Router, commands: Callable[[str, str], tuple[str, str]]) -> float:
    """Copy the table with a pipe of two programs into a scratch schema; return the seconds."""
    source = router.shard_map.owner(0).name
    target = "s1" if source == "s0" else "s0"
    urls = [cluster.url(name).replace("+psycopg2", "") for name in (source, target)]
    out, into = commands(*urls)
    began = time.perf_counter()
    subprocess.run(f"{out} | {into}", shell=True, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    connection = plain_connection(cluster.url(target))
    connection.cursor().execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    connection.close()
    return seconds


def dump(source: str, target: str) -> tuple[str, str]:
    programs = binaries.programs(18, None)
    return (
        f"{programs / 'pg_dump'} -n {SCHEMA} '{source}'",
        f"{programs / 'psql'} -q -v ON_ERROR_STOP=1 '{target}'",
    )


def copy(source: str, target: str) -> tuple[str, str]:
    programs = binaries.programs(18, None)
    create = f"CREATE SCHEMA {SCHEMA}; {DDL.replace('lines', SCHEMA + '.lines', 1)}"
    subprocess.run([str(programs / "psql"), "-q", target, "-c", create], check=True)
    return (
        f"{programs / 'psql'} '{source}' -c 'COPY {SCHEMA}.lines TO STDOUT (FORMAT binary)'",
        f"{programs / 'psql'} '{target}' -c 'COPY {SCHEMA}.lines FROM STDIN (FORMAT binary)'",
    )


def throughput(cluster: LocalCluster, router: Router, megabytes: int) -> RichTable:
    table = RichTable(title=f"{megabytes} MB in rows of {ROW} bytes, without writers, 3 rounds: MB/s (median)")
    found: dict[str, list[float]] = {}
    for _ in range(3):
        found.setdefault("pg_dump | psql", []).append(piped(cluster, router, dump))
        found.setdefault("COPY piped by psql", []).append(piped(cluster, router, copy))
        report = move(router)
        found.setdefault("a move, verified, its whole time", []).append(report.seconds)
        steps = [*report.steps, ("", report.seconds)]
        lasted = {name: steps[at + 1][1] - began for at, (name, began) in enumerate(report.steps)}
        found.setdefault("its step copy", []).append(lasted["copy"])
        found.setdefault("its steps copy and finish", []).append(lasted["copy"] + lasted["finish"])
    for heading in ("", "MB/s"):
        table.add_column(heading, justify="right")
    for name, seconds in found.items():
        table.add_row(name, f"{megabytes / statistics.median(seconds):.0f}")
    return table


# -- the way back -----------------------------------------------------------------------------------------------------


def way_back(router: Router, megabytes: int) -> RichTable:
    """Move and move back, with many rows written in between; somebody keeps the old side current, or nobody does."""
    table = RichTable(title=f"back after every third of the rows of {megabytes} MB was written, 3 rounds, medians")
    for heading in ("old side", "its writers wait, ms", "carried over and compared, s", "whole, s"):
        table.add_column(heading, justify="right")
    found: dict[str, list[MoveReport]] = {"as it was": [], "kept current": []}
    for _ in range(3):
        for name, reports in found.items():
            source = router.shard_map.owner(0).name
            target = "s1" if source == "s0" else "s0"
            move_partition(router, 0, target, mode="trigger", keep=3600)
            router.refresh()
            router.execute(0, "UPDATE lines SET hits = hits + 1 WHERE number % 3 = 0")
            if name == "kept current":
                care_for_moves(router)
            reports.append(move_partition(router, 0, source))
            router.refresh()
    for name, reports in found.items():
        pauses, carried, whole = [], [], []
        for report in reports:
            begun = dict(report.steps)
            pauses.append(report.pause * 1000)
            carried.append(begun["lock"] - begun["finish"])
            whole.append(report.seconds)
        row = (
            f"{statistics.median(pauses):.0f}",
            f"{statistics.median(carried):.2f}",
            f"{statistics.median(whole):.2f}",
        )
        table.add_row(name, *row)
    return table


def main() -> None:
    options = dict(it.split("=") for it in sys.argv[1:] if "=" in it)
    share: float | Literal["auto"] = float(options["share"]) if "share" in options else "auto"
    sizes = [int(it) for it in sys.argv[1:] if it.isdigit()] or list(SIZES)
    pauses = RichTable(title=f"moves under {WRITERS} writers, share {share}; milliseconds that they waited")
    for heading in (
        "size",
        "mode",
        "moves",
        "median",
        "p95",
        "longest",
        "slowest write",
        "whole move, s",
        "writers slower by",
    ):
        pauses.add_column(heading, justify="right")
    console = Console(width=120)
    for megabytes in sizes:
        cluster = LocalCluster(shards=2, partitions=1, keyspace="bench", settings={"fsync": True})
        with cluster, cluster.router() as router:
            router.config = replace(router.config, moves=MoveConfig(share=share))
            router.create_schema(DDL, {"lines": Sharded("key")})
            fill(router, megabytes)
            for row in measure(router, megabytes, int(options.get("moves", 20))):
                pauses.add_row(*row)
            if megabytes == sizes[-1]:
                console.print(throughput(cluster, router, megabytes))
                console.print(way_back(router, megabytes))
    console.print(pauses)
    console.print(of_all_partitions(share))


if __name__ == "__main__":
    main()
