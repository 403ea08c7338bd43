"""What the demo does, step by step. Each function does its part on the stage and returns its facts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardpool.cli.demo.answers import compare_answers, same_rows, timed
from shardpool.cli.demo.data import TABLES, find_generator, generate, schema
from shardpool.cli.demo.plain import PlainPostgres
from shardpool.cli.demo.routes import REPORT, routed_statements
from shardpool.cli.demo.writer import Writers, percentiles, timeline
from shardpool.cli.load import load_progress, progress_callback
from shardpool.cli.move import report_facts
from shardpool.cli.moving import watched_moves
from shardpool.cli.plans import explanation_picture
from shardpool.cli.rebalance import plan_facts
from shardpool.cli.status import read_status
from shardpool.local import LocalCluster
from shardpool.moves import add_shard, apply_rebalance, plan_rebalance
from shardpool.router import Router

if TYPE_CHECKING:
    from rich.console import Console

#: Seconds of writing before the rebalance, to have something to compare with.
QUIET = 1.0
#: The part of the time that moves work here. By themselves they would make way for the writers, while somebody watches.
SHARE = 0.3

Facts = dict[str, Any]


@dataclass
class Stage:
    """What the steps work with. `facts` are those of the steps so far, by name."""

    scale: float
    cluster: LocalCluster
    plain: PlainPostgres
    resources: ExitStack
    console: Console | None
    files: Mapping[str, Path] = field(default_factory=dict)
    facts: Facts = field(default_factory=dict)
    opened: list[Router] = field(default_factory=list)

    @property
    def router(self) -> Router:
        return self.opened[0]


def start(stage: Stage) -> Facts:
    """Start the servers and make the TPC-H files, all at once."""
    generator = find_generator()
    directory = Path(stage.resources.enter_context(tempfile.TemporaryDirectory(prefix="shardpool-demo-")))
    with ThreadPoolExecutor(2, "demo-start") as threads:
        files = threads.submit(generate, generator, directory, stage.scale)
        plain = threads.submit(stage.resources.enter_context, stage.plain)
        started = time.perf_counter()
        stage.resources.enter_context(stage.cluster)
        seconds = time.perf_counter() - started
        stage.files = files.result()
        plain.result()
    router = stage.resources.enter_context(stage.cluster.router())
    router.config = replace(router.config, moves=replace(router.config.moves, share=SHARE))
    stage.opened.append(router)
    return {
        "shards": {name: stage.cluster.url(name) for name in stage.cluster.names},
        "partitions": len(stage.router.shard_map.partitions),
        "start_seconds": round(seconds, 3),
        "scale": stage.scale,
        "bytes": sum(file.stat().st_size for file in stage.files.values()),
    }


def create(stage: Stage) -> Facts:
    """Create the tables in every partition, or on every shard."""
    reports, seconds = timed(lambda: stage.router.create_schema(schema(), TABLES))
    stage.plain.execute(schema())
    tables = stage.router.topology.tables
    return {
        "statements": len(reports),
        "tables": {name: list(table.key) for name, table in sorted(tables.items())},
        "create_seconds": round(seconds, 3),
    }


def load(stage: Stage) -> Facts:
    """Load all files, and the same into the plain PostgreSQL."""
    found: list[Facts] = []
    with nullcontext() if stage.console is None else load_progress(stage.console) as progress:
        for table, file in stage.files.items():
            report = progress_callback(progress, table) if progress is not None else None
            result = stage.router.copy_into(table, file, progress=report)
            found.append({"table": table, "rows": result.rows, "seconds": round(result.seconds, 4)})
    began = time.perf_counter()
    for table, file in stage.files.items():
        stage.plain.copy(table, file)
    plain_seconds = time.perf_counter() - began
    for shard in stage.cluster.names:
        with stage.router.engines.borrow(shard) as connection, connection.cursor() as cursor:
            cursor.execute("ANALYZE")
            connection.commit()
    stage.plain.execute("ANALYZE")
    return {
        "loads": found,
        "rows": sum(it["rows"] for it in found),
        "load_seconds": round(sum(it["seconds"] for it in found), 3),
        "plain_seconds": round(plain_seconds, 3),
        "map": read_status(stage.router)["shards"],
    }


def route(stage: Stage) -> Facts:
    """Run statements on the one partition of their key."""
    return {"routed": routed_statements(stage.router, stage.plain)}


def report(stage: Stage) -> Facts:
    """Run one report over all shards, and show its plan."""
    stage.router.query(REPORT)  # connections are opened at first use
    rows, seconds = timed(lambda: [tuple(row) for row in stage.router.query(REPORT)])
    theirs, plain_seconds = timed(lambda: stage.plain.query(REPORT))
    explanation = stage.router.explain(REPORT)
    return {
        "sql": REPORT,
        "columns": list(stage.router.query(REPORT).keys()),
        "report": rows,
        "equal": same_rows(rows, theirs),
        "ms": round(seconds * 1000, 2),
        "plain_ms": round(plain_seconds * 1000, 2),
        "plan": explanation.to_json(),
        "picture": None if stage.console is None else explanation_picture(explanation, stage.router.topology),
    }


def check_before(stage: Stage) -> Facts:
    """Compare TPC-H answers with the plain PostgreSQL."""
    return {"answers": compare_answers(stage.router, stage.plain)}


def grow(stage: Stage) -> Facts:
    """Start a fourth shard and plan what is to move there."""
    name = stage.cluster.add_shard()
    add_shard(stage.router, name, stage.cluster.url(name))
    stage.router.refresh()
    return {"shard": name, "plan": plan_facts(plan_rebalance(stage.router))}


def rebalance(stage: Stage) -> Facts:
    """Move partitions to the new shard while orders are written all the time."""
    planned = plan_rebalance(stage.router)
    labels = {it.partition: f"{it.source} → {it.target}" for it in planned.moves}
    homes = {it.partition.id: it.shard for it in stage.router.shard_map.placements}
    keys = [key for (key,) in stage.plain.query("SELECT o_orderkey FROM orders ORDER BY 1")]
    with Writers(stage.router, keys, keys[-1]) as writers:
        time.sleep(QUIET)
        began = time.monotonic()
        with watched_moves(labels, quiet=stage.console is None, console=stage.console) as progress:
            reports = [report_facts(it) for it in apply_rebalance(stage.router, planned, progress=progress)]
        ended = time.monotonic()
    return {
        "moves": reports,
        "rebalance_seconds": round(ended - began, 3),
        "share": SHARE,
        "writer": {
            "threads": len(writers.journals),
            "writes": writers.written,
            "errors": len(writers.errors),
            "first_error": next(iter(writers.errors), None),
            "quiet_ms": percentiles([it for at, it in writers.latencies if at < began]),
            "moving_ms": percentiles([it for at, it in writers.latencies if at >= began]),
            "timeline": timeline(writers.latencies, began, ended),
            **_account(stage, writers),
        },
        "homes": homes,
        "map": read_status(stage.router)["shards"],
    }


def _account(stage: Stage, writers: Writers) -> Facts:
    """Give the plain PostgreSQL the acknowledged writes, and compare every order with it."""
    stage.plain.insert_orders(writers.inserted)
    stage.plain.raise_prices(writers.updated)
    everything = "SELECT * FROM orders ORDER BY o_orderkey"
    ours = {row[0]: tuple(row) for row in stage.router.query(everything)}
    theirs = {row[0]: row for row in stage.plain.query(everything)}
    written = {row[0] for row in writers.inserted} | set(writers.updated)
    return {
        "inserted": len(writers.inserted),
        "updated": writers.updated.total(),
        "lost": len([key for key in written if ours.get(key) != theirs[key]]),
        "orders": len(theirs),
        "orders_equal": ours == theirs,
    }


def check_after(stage: Stage) -> Facts:
    """Compare the TPC-H answers again: partitions have moved, orders were written."""
    return {"answers": compare_answers(stage.router, stage.plain)}
