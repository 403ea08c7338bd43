"""What the tests of the runner stand on: a keyspace with a table to copy from and one to copy into."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import text

from shardpool import Config, Router, parse_config
from shardpool.bulk import resolve_loads
from shardpool.bulk.chunk import Opened, Rejected, Rows
from shardpool.bulk.executors import open_executor
from shardpool.bulk.journal import JobJournal
from shardpool.bulk.keyspace_sink import KeyspaceSink
from shardpool.bulk.keyspace_source import KeyspaceSource
from shardpool.bulk.runner import JobProgress, Run, RunOptions
from shardpool.bulk.throttle import Throttle
from shardpool.bulk.worker import Patience

DDL = """
CREATE TABLE kind (code text PRIMARY KEY, name text NOT NULL);
CREATE TABLE item (id bigint PRIMARY KEY, kind text REFERENCES kind, note text, amount numeric(12,2));
CREATE TABLE part (id bigint, number int, note text, PRIMARY KEY (id, number), FOREIGN KEY (id) REFERENCES item);
CREATE TABLE loose (id bigint NOT NULL, note text);
"""
SHARDED = {"item": "id", "part": "id", "loose": "id"}
#: Copies of the tables, of the same shape, into which tests write.
TO = "to_"
OPTIONS = RunOptions(chunk_rows=100, patience=Patience(attempts=8, first=0.02, longest=0.2))
#: What a value must look like to be refused by the copy: see `to_item`'s check.
BAD_NOTE = "bad"


def config_of(urls: list[str], keyspace: str = "shop", partitions: int = 8) -> Config:
    names = [f"{prefix}{table}" for table in SHARDED for prefix in ("", TO)]
    return parse_config(
        {
            "keyspace": keyspace,
            "partitions": partitions,
            "catalog": urls[0],
            "shards": {f"s{number}": {"url": url} for number, url in enumerate(urls)},
            "tables": {
                **{name: {"key": "id"} for name in names},
                "kind": {"reference": True},
                "to_kind": {"reference": True},
            },
        },
        source="test",
    )


def make_tables(router: Router, rows: int) -> None:
    """Create the tables and their copies, and fill the former: *rows* items with three parts each."""
    copies = DDL
    for name in ("kind", "item", "part", "loose"):
        copies = copies.replace(f"TABLE {name} ", f"TABLE {TO}{name} ").replace(
            f"REFERENCES {name}", f"REFERENCES {TO}{name}"
        )
    router.create_schema(DDL + copies.replace("note text, amount", f"note text CHECK (note <> '{BAD_NOTE}'), amount"))
    router.copy_into("kind", [("a", "tab\there"), ("b", "line\nbreak"), ("c", "back\\slash")])
    router.copy_into("item", [(n, "abc"[n % 3], None if n % 7 == 0 else f"nöte\t{n}", n / 4) for n in range(rows)])
    router.copy_into("part", [(n, k, f"{n}/{k}") for n in range(rows) for k in range(3)])
    router.copy_into("loose", [(n % 50, f"row {n}") for n in range(rows)])


def empty(router: Router) -> None:
    """Remove what a test has left, also of processes that were killed."""
    resolve_loads(router.catalog, router.engines, list(router.shard_map.shards), older_than=0)
    for placement in router.shard_map.placements:
        with router.engines.borrow(placement.shard) as connection, connection.cursor() as cursor:
            schema = placement.partition.schema
            cursor.execute("SET LOCAL lock_timeout = '10s'")
            cursor.execute(", ".join(f"{schema}.{TO}{name}" for name in SHARDED).join(["TRUNCATE ", " CASCADE"]))
            connection.commit()
    for shard in router.shard_map.shards:
        with router.engines.borrow(shard) as connection, connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {router.topology.keyspace}.{TO}kind")
            connection.commit()
    with router.catalog.begin() as connection:
        connection.execute(text("DELETE FROM shardpool_catalog.job"))
        connection.execute(text("DELETE FROM shardpool_catalog.job_ledger"))


def all_rows(router: Router, table: str) -> list[tuple[Any, ...]]:
    order = "1" if table.endswith(("kind", "item")) else "1, 2"
    return [tuple(row) for row in router.query(f"SELECT * FROM {table} ORDER BY {order}")]


def shifted(key: int) -> int:
    """The key that the transform gives: most rows go to another partition."""
    return key * 1_000_003 + 17


@dataclass(frozen=True)
class CopyWork:
    """Copies tables to their ``to_`` tables under shifted keys. Sent to other processes as it is."""

    config: Config
    tables: tuple[tuple[str, int], ...] = (("kind", 0), ("item", 1), ("part", 2), ("loose", 2))
    token: str = ""

    @contextmanager
    def open(self) -> Iterator[Opened]:
        with Router(self.config, listen=False) as router:
            yield self.opened(router)

    def opened(self, router: Router) -> Opened:
        source = KeyspaceSource(router, dict(self.tables))
        return Opened(source, KeyspaceSink(router), shift, router.refresh)


def shift(rows: Rows) -> tuple[list[Rows], list[Rejected]]:
    """Rename the table, and shift its first column if that is a number."""
    records = rows.records
    if rows.table != "kind":
        cut = [record.partition(b"\t") for record in records]
        records = [b"%d\t%b" % (shifted(int(key)), rest) for key, _, rest in cut]
    return [replace(rows, table=TO + rows.table, records=records)], []


def start(
    router: Router,
    work: CopyWork | None = None,
    *,
    name: str = "copy",
    options: RunOptions = OPTIONS,
    executor: str = "threads",
    resume: bool = False,
    report: Callable[[JobProgress], object] = lambda progress: None,
    throttle: Throttle | None = None,
) -> JobProgress:
    """Run a copy, or go on with one that was interrupted."""
    work = replace(work or CopyWork(router.config), token=uuid.uuid4().hex)
    journal = JobJournal(router.catalog)
    with journal.held(name), open_executor(executor, options.workers) as pool:
        if resume:
            record = journal.want(name, "run")
        else:
            record = journal.begin(name, "copy", {}, hashlib.sha256(repr(work.tables).encode()).hexdigest())
        run = Run(journal, record, work, work.opened(router), pool, options, report, throttle=throttle)
        return run.run()


def check_copied(router: Router) -> None:
    """Each row of each table is there exactly once, where its key belongs; nothing else is left of the job."""
    router.refresh()
    assert all_rows(router, "to_kind") == all_rows(router, "kind")
    for table in ("item", "part", "loose"):
        expected = sorted((shifted(row[0]), *row[1:]) for row in all_rows(router, table)), table
        assert (sorted(all_rows(router, TO + table), key=str), table) == (sorted(expected[0], key=str), table)
    for row in all_rows(router, "to_item")[::97]:
        assert router.execute(row[0], "SELECT count(*) FROM to_item WHERE id = :id", {"id": row[0]}).scalar_one() == 1
    for shard in router.shard_map.shards:
        assert not prepared(router, shard)


def prepared(router: Router, shard: str) -> list[str]:
    with router.engines.borrow(shard) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
        return [gid for (gid,) in cursor.fetchall()]


def in_process(urls: list[str], *, fault: str = "", resume: bool = False, **environment: str) -> int:
    """Run the copy in a process of its own; return how it ended."""
    command = [sys.executable, "-m", "tests.jobs.copy_in_process", json.dumps(urls), "resume" if resume else "run"]
    variables = {**os.environ, **environment, **({"SHARDPOOL_FAULT": f"{fault}:kill9"} if fault else {})}
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, env=variables, timeout=120, check=False).returncode
