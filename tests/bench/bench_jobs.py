"""Jobs against what people write today, side by side on the same servers: `python -m tests.bench.bench_jobs`.

Moving a table in: `pg_dump | psql` into one database, one COPY to COPY pipe per core, and the job ``import``: its copy
alone, the whole job but the comparison of all rows, and the whole. Moving it out again: such a pipe per shard and then
the key, COPY to a file per shard, and the job ``export`` into one database and to files. Anonymising: a loop over a
`psycopg2.pool` with an INSERT per row, and the job ``anonymise`` on threads, processes, both (``auto``) and a Dask
cluster of two. ETL: such a loop that prices each row, and the job ``etl`` with the same function over rows, with one
over Arrow tables, and with SQL. `SHARDPOOL_BENCH_ROWS` (1,000,000). `python -m tests.bench.bench_jobs memory` copies 1
million rows and then 10 times as many, each in a process of its own, and prints what each has needed.
"""

from __future__ import annotations

import hmac
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from distributed import LocalCluster as Dask
from psycopg2.pool import ThreadedConnectionPool
from sqlalchemy.engine import make_url

from shardpool import Router, Sharded
from shardpool.bulk.runner import Run
from shardpool.jobs import run_job
from shardpool.jobs.migrate import job as migrate
from shardpool.local import LocalCluster
from shardpool.local.binaries import programs
from tests.support.backends import plain_connection

ROWS = int(os.environ.get("SHARDPOOL_BENCH_ROWS", "1000000"))
CORES = 2
DDL = """CREATE TABLE visit (
    customer bigint NOT NULL, number bigint NOT NULL, at timestamptz NOT NULL, email text NOT NULL, phone text,
    amount numeric(12,2), note text, PRIMARY KEY (customer, number))"""
FILL = """INSERT INTO visit SELECT n / 10, n, '2024-01-01'::timestamptz + n * interval '1 second',
    'person' || n / 10 || '@mail.example', '+49 30 ' || 1000000 + n, n / 7.0, 'visit number ' || n
    FROM generate_series(1, %s) n"""
IMPORT = """job = "import"
name = "in"
[from]
url = "{url}"
frozen = true
[run]
chunk_rows = 100000
[tables]
visit = {{ key = "customer" }}
"""
ANONYMISE = """job = "anonymise"
name = "anonymous"
[to]
config = "anonymous.toml"
[secret]
env = "BENCH_SECRET"
[run]
executor = "{executor}"
workers = {workers}
chunk_rows = 50000
[tables.visit]
customer = "pseudonym"
number = "keep"
at = "keep"
email = {{ rule = "pseudonym", as = "email" }}
phone = "mask"
amount = {{ rule = "noise", percent = 5 }}
note = "keep"
"""


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def options(url: str) -> list[str]:
    parsed = make_url(url)
    return ["-h", str(parsed.host), "-p", str(parsed.port), "-U", str(parsed.username), "-d", str(parsed.database)]


def execute(url: str, *statements: str) -> None:
    connection = plain_connection(url)
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


@contextmanager
def keyspace(name: str, shards: int = 2) -> Iterator[tuple[LocalCluster, Router]]:
    with LocalCluster(shards=shards, partitions=16, keyspace=name) as cluster, cluster.router() as router:
        yield cluster, router


def dump_and_restore(source: str, target: str) -> None:
    bin = programs(18, None)
    with subprocess.Popen([bin / "pg_dump", *options(source)], stdout=subprocess.PIPE) as dump:
        subprocess.run([bin / "psql", "-q", *options(target)], stdin=dump.stdout, check=True, stdout=subprocess.DEVNULL)


def copy_per_core(source: str, targets: list[str]) -> None:
    """Each core pipes its part of the rows from COPY to COPY. The best that can be had without looking at a row."""

    def pipe(number: int) -> None:
        part = f"COPY (SELECT * FROM visit WHERE number % {len(targets)} = {number}) TO STDOUT"
        psql = programs(18, None) / "psql"
        with subprocess.Popen([psql, "-qc", part, *options(source)], stdout=subprocess.PIPE) as reader:
            command = [psql, "-qc", "COPY visit FROM STDIN", *options(targets[number])]
            subprocess.run(command, stdin=reader.stdout, check=True)

    threads = [threading.Thread(target=pipe, args=(number,)) for number in range(len(targets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def timed(owner: Any, name: str) -> Iterator[list[float]]:
    """How long the calls of a function of *owner* take in the block, in seconds."""
    found: list[float] = []
    original = getattr(owner, name)

    def call(*given: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(*given)
        finally:
            found.append(time.perf_counter() - began)

    setattr(owner, name, call)
    try:
        yield found
    finally:
        setattr(owner, name, original)


def moving_in(folder: Path) -> None:
    with LocalCluster(shards=1, partitions=1) as old, LocalCluster(shards=2, partitions=1) as plain:
        source, targets = old.url("s0"), [plain.url(name) for name in plain.names]
        execute(source, DDL, FILL % ROWS, "VACUUM ANALYZE visit")
        dumped = seconds(lambda: dump_and_restore(source, targets[0]))
        execute(targets[0], "TRUNCATE visit")
        execute(targets[1], DDL)
        copied = seconds(lambda: copy_per_core(source, targets))
        path = folder / "import.toml"
        path.write_text(IMPORT.format(url=source))
        works = timed(Run, "_work_off"), timed(migrate, "verify_frozen"), timed(migrate, "change_schema")
        with keyspace("shop") as (_, router):
            with works[0] as alone, works[1] as compared, works[2] as changed:
                moved = seconds(lambda: run_job(router, path))
            rates = {"pg_dump | psql": dumped, "one COPY per core": copied, "job import, the copy": alone[0]}
            # Primary keys, the second change of the schema, are built while rows are compared.
            rates |= {"job import, not verified": moved - compared[0] + changed[1], "job import, verified": moved}
            _print_rates("in (rows/s, of one COPY per core)", rates, copied)
            router.refresh()
            moving_out(router, targets[0], folder)


def moving_out(router: Router, target: str, folder: Path) -> None:
    key = ", PRIMARY KEY (customer, number)"
    execute(target, "DROP TABLE visit", DDL.replace(key, ""))
    copied = seconds(lambda: copy_per_shard(router, target))
    copied += seconds(lambda: execute(target, f"ALTER TABLE visit ADD {key[2:]}"))
    filed = seconds(lambda: copy_per_shard(router, folder))
    execute(target, "DROP TABLE visit")
    spec: dict[str, Any] = {"job": "export", "name": "out", "run": {"chunk_rows": 50_000}}
    with timed(Run, "_work_off") as alone:
        whole = seconds(lambda: run_job(router, {**spec, "to": {"url": target}}))
    rates = {"COPY per shard, then the key": copied, "job export, the copy": alone[0], "job export, verified": whole}
    rates["COPY to CSV per shard"] = filed
    for format in ("csv", "parquet"):
        to = {"directory": str(folder / format), "format": format}
        rates[f"job export, {format}"] = seconds(lambda to=to: run_job(router, {**spec, "to": to}))  # type: ignore[misc]
    _print_rates("out (rows/s, of COPY per shard and the key)", rates, copied)


def _print_rates(what: str, rates: dict[str, float], plain: float) -> None:
    print(f"moving {ROWS:,} rows {what}:")
    for name, took in rates.items():
        print(f"  {name:30}{ROWS / took:12,.0f}{plain / took:8.2f}")


def copy_per_shard(router: Router, to: str | Path) -> None:
    """From each shard's partitions, one after another, into a table or a file."""
    psql = programs(18, None) / "psql"

    def pipe(shard: str) -> None:
        file = "(FORMAT csv)" if isinstance(to, Path) else ""
        parts = [f"COPY {it.schema}.visit TO STDOUT {file}" for it in router.shard_map.by_shard()[shard]]
        source = [psql, "-qc", "; ".join(parts), *options(router.shard_map.shards[shard].url)]
        if isinstance(to, Path):
            with (to / f"{shard}.csv").open("wb") as out:
                subprocess.run(source, stdout=out, check=True)
            return
        with subprocess.Popen(source, stdout=subprocess.PIPE) as reader:
            command = [psql, "-qc", "COPY visit FROM STDIN", *options(to)]
            subprocess.run(command, stdin=reader.stdout, check=True)

    with ThreadPoolExecutor(len(router.shard_map.shards)) as threads:
        list(threads.map(pipe, router.shard_map.shards))


def loop_over_pool(source: str, target: str, rows: int) -> None:
    """Read, change in Python, insert row by row, commit now and then."""
    secret = b"0123456789abcdef"

    def token(value: str) -> str:
        return hmac.digest(secret, value.encode(), "sha256").hex()

    pools = [ThreadedConnectionPool(1, 4, dsn=" ".join(dsn(url))) for url in (source, target)]
    reader, writer = pools[0].getconn(), pools[1].getconn()
    with reader.cursor() as read, writer.cursor() as write:
        read.execute("SELECT * FROM visit LIMIT %s", (rows,))
        for at, (customer, number, moment, email, phone, amount, note) in enumerate(read):
            row = (
                int(token(str(customer))[:15], 16),
                number,
                moment,
                token(email)[:26],
                token(phone)[:10],
                amount,
                note,
            )
            write.execute("INSERT INTO visit VALUES (%s, %s, %s, %s, %s, %s, %s)", row)
            if at % 1000 == 0:
                writer.commit()
        writer.commit()
    for pool, connection in zip(pools, (reader, writer), strict=True):
        pool.putconn(connection)
        pool.closeall()


def dsn(url: str) -> list[str]:
    parsed = make_url(url)
    return [f"host={parsed.host}", f"port={parsed.port}", f"user={parsed.username}", f"dbname={parsed.database}"]


def rate_of_loop(loop: Callable[[str, str, int], None], created: str) -> float:
    """Return the rows/s of a *loop* from one server to another, where *created* is the table that it fills."""
    few = min(ROWS, 50_000)
    with LocalCluster(shards=2, partitions=1) as plain:
        source, target = (plain.url(name) for name in plain.names)
        execute(source, DDL, FILL % few)
        execute(target, created)
        return few / seconds(lambda: loop(source, target, few))


def anonymising(folder: Path) -> None:
    os.environ["BENCH_SECRET"] = os.urandom(32).hex()
    looped = rate_of_loop(loop_over_pool, DDL)
    rates = {"loop over psycopg2.pool": looped}
    with keyspace("shop") as (cluster, router):
        router.create_schema(DDL, {"visit": Sharded("customer")})
        router.copy_into("visit", _rows(ROWS))
        with Dask(n_workers=CORES, threads_per_worker=1, dashboard_address=None, silence_logs=50) as dask:
            for name, executor in (("threads", ""), ("processes", ""), ("auto", ""), ("dask", dask.scheduler_address)):
                config = cluster.write_config(folder / "anonymous.toml")
                config.write_text(config.read_text().replace('keyspace = "shop"', f'keyspace = "anonymous_{name}"'))
                path = folder / f"{name}.toml"
                executor = executor.replace("tcp", "dask") or name
                workers = CORES if name in ("processes", "dask") else 4
                path.write_text(ANONYMISE.format(executor=executor, workers=workers))
                took = seconds(lambda path=path: run_job(router, path))  # type: ignore[misc]
                rates[f"job anonymise, {name}"] = ROWS / took
    print(f"anonymising {ROWS:,} rows (rows/s, of the loop):")
    for name, rate in rates.items():
        print(f"  {name:28}{rate:12,.0f}{rate / looped:8.2f}")


FUNCTIONS = """
from decimal import Decimal

def price(rows):
    for row in rows:
        yield {"customer": row["customer"], "number": row["number"], "gross": row["amount"] * Decimal("1.19")}

def arrow(table):
    import pyarrow as pa
    import pyarrow.compute as pc
    gross = pc.multiply(table["amount"], pa.scalar(Decimal("1.19")))
    return table.select(["customer", "number"]).append_column("gross", gross)
"""
PRICED = "CREATE TABLE priced (customer bigint, number bigint, gross numeric, PRIMARY KEY (customer, number))"
ETL: dict[str, dict[str, Any]] = {
    "a function over rows": {"extract": {"table": "visit"}, "transform": {"python": "price.py:price"}},
    "Arrow tables": {"extract": {"table": "visit"}, "transform": {"arrow": "price.py:arrow"}},
    "SQL": {"extract": {"query": "SELECT customer, number, amount * 1.19 AS gross FROM visit"}},
}


def pricing_loop(source: str, target: str, rows: int) -> None:
    pools = [ThreadedConnectionPool(1, 4, dsn=" ".join(dsn(url))) for url in (source, target)]
    reader, writer = pools[0].getconn(), pools[1].getconn()
    with reader.cursor() as read, writer.cursor() as write:
        read.execute("SELECT * FROM visit LIMIT %s", (rows,))
        for at, (customer, number, _, _, _, amount, _) in enumerate(read):
            row = customer, number, amount * Decimal("1.19")
            write.execute("INSERT INTO priced VALUES (%s, %s, %s)", row)
            if at % 1000 == 0:
                writer.commit()
        writer.commit()
    for pool, connection in zip(pools, (reader, writer), strict=True):
        pool.putconn(connection)
        pool.closeall()


def etl(folder: Path) -> None:
    (folder / "price.py").write_text(FUNCTIONS)
    looped = rate_of_loop(pricing_loop, PRICED)
    rates = {"loop over psycopg2.pool": looped}
    with keyspace("shop") as (_, router):
        router.create_schema(f"{DDL}; {PRICED}", {"visit": Sharded("customer"), "priced": Sharded("customer")})
        router.copy_into("visit", _rows(ROWS))
        for executor in ("threads", "processes", "auto"):
            for name, what in ETL.items():
                router.query("TRUNCATE priced")
                run = {"executor": executor, "workers": CORES if executor == "processes" else 4, "chunk_rows": 50_000}
                spec = {"job": "etl", "name": "price", "load": {"table": "priced"}, "run": run, **what}
                took = seconds(lambda spec=spec: run_job(router, spec))  # type: ignore[misc]
                rates[f"job etl, {name}, {executor}"] = ROWS / took
    print(f"pricing {ROWS:,} rows (rows/s, of the loop):")
    for name, rate in rates.items():
        print(f"  {name:40}{rate:12,.0f}{rate / looped:8.2f}")


def _rows(count: int) -> Iterator[tuple[object, ...]]:
    for n in range(count):
        mail, phone = f"person{n // 10}@mail.example", f"+49 30 {1000000 + n}"
        yield n // 10, n, "2024-01-01 00:00:00+00", mail, phone, f"{n / 7:.2f}", f"visit number {n}"


def memory(rows: int) -> None:
    """Copy *rows* rows out of a keyspace into files in this process, and print the most memory it had."""
    with tempfile.TemporaryDirectory() as folder, keyspace("shop") as (_, router):
        os.environ["BENCH_SECRET"] = os.urandom(32).hex()
        router.create_schema(DDL, {"visit": Sharded("customer")})
        for placement in router.shard_map.placements:
            with router.engines.borrow(placement.shard) as connection, connection.cursor() as cursor:
                share = rows // len(router.shard_map.placements)
                cursor.execute(f"SET LOCAL search_path = {placement.partition.schema}")
                cursor.execute(FILL % share)
                connection.commit()
        path = Path(folder) / "job.toml"
        spec = ANONYMISE.format(executor="threads", workers=CORES).replace(
            'config = "anonymous.toml"', 'directory = "out"'
        )
        path.write_text(spec.replace('customer = "pseudonym"', 'customer = "keep"'))
        took = seconds(lambda: run_job(router, path))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"  {rows:12,} rows: {peak:6.0f} MB at most, {rows / took:,.0f} rows/s", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["memory"]:
        if sys.argv[2:]:
            return memory(int(sys.argv[2]))
        print("memory of a job:")
        for rows in (1_000_000, 10_000_000):
            subprocess.run([sys.executable, "-m", "tests.bench.bench_jobs", "memory", str(rows)], check=True)
        return None
    with tempfile.TemporaryDirectory() as folder:
        moving_in(Path(folder))
        anonymising(Path(folder))
        os.chdir(folder)
        etl(Path(folder))
    return None


if __name__ == "__main__":
    main()
