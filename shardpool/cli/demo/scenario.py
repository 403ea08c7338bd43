"""The demo's programme: `STEPS`, and how it is run."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

from rich.console import RenderableType

from shardpool.cli.cluster import catch_the_end
from shardpool.cli.demo import pictures, steps
from shardpool.cli.demo.plain import PlainPostgres
from shardpool.cli.demo.steps import Facts, Stage
from shardpool.cli.output import print_json, stdout
from shardpool.local import LocalCluster

SHARDS = 3
PARTITIONS = 16
KEYSPACE = "tpch"


@dataclass(frozen=True)
class Step:
    """A step, what is shown above it, and how its facts are drawn. `live`: it shows its own progress."""

    title: str
    run: Callable[[Stage], Facts]
    picture: Callable[[Facts, Facts], RenderableType]
    live: bool = False

    @property
    def name(self) -> str:
        return self.run.__name__


STEPS: tuple[Step, ...] = (
    Step("Three PostgreSQL servers, sixteen partitions", steps.start, pictures.start),
    Step("Eight tables, split by key", steps.create, pictures.create),
    Step("Loading TPC-H", steps.load, pictures.load, live=True),
    Step("Statements with a key go to one partition", steps.route, pictures.route),
    Step("A report goes to all shards at once", steps.report, pictures.report),
    Step("The answers are those of one PostgreSQL", steps.check_before, pictures.answers_before),
    Step("A fourth shard joins", steps.grow, pictures.grow),
    Step("Partitions move while orders are written", steps.rebalance, pictures.rebalance, live=True),
    Step("The answers are still those of one PostgreSQL", steps.check_after, pictures.answers),
)


def run_demo(scale: float, *, keep: bool, as_json: bool) -> Facts:
    """Run all steps and print them, or their facts as JSON. Whatever happens, the servers are gone afterwards."""
    console = None if as_json else stdout()
    began = time.perf_counter()
    with ExitStack() as resources:
        cluster = LocalCluster(SHARDS, PARTITIONS, keyspace=KEYSPACE)
        stage = Stage(scale, cluster, PlainPostgres(), resources, console)
        if console is not None:
            console.print(pictures.welcome(scale))
        for number, step in enumerate(STEPS, 1):
            _run_step(stage, number, step)
        facts = _verdict(stage.facts, time.perf_counter() - began)
        ended = None
        if keep:
            facts["config"] = str(cluster.write_config(cluster.directory / "cluster.toml"))
            ended = catch_the_end()
        if console is None:
            print_json(facts)
        else:
            console.print(pictures.farewell(facts))
        if ended is not None:
            ended.wait()
    return facts


def _run_step(stage: Stage, number: int, step: Step) -> None:
    console = stage.console
    if console is not None:
        console.print()
        console.rule(f"[bold]{number}  {step.title}[/bold]", align="left", style="dim")
        console.print()
    began = time.perf_counter()
    with nullcontext() if console is None or step.live else console.status("working"):
        facts = step.run(stage)
    stage.facts[step.name] = {**facts, "seconds": round(time.perf_counter() - began, 3)}
    picture = stage.facts[step.name].pop("picture", None)  # not for JSON
    if console is not None:
        console.print(step.picture({**facts, "picture": picture}, stage.facts))


def _verdict(done: Facts, seconds: float) -> Facts:
    """Sum up: `ok` if nothing was lost, nothing failed and every answer was equal."""
    answers = [it["equal"] for name in ("check_before", "check_after") for it in done[name]["answers"]]
    writer = done["rebalance"]["writer"]
    facts: Facts = {
        "seconds": round(seconds, 2),
        "answers": len(answers) + 1,
        "answers_equal": all(answers) and done["report"]["equal"],
        "rows": done["load"]["rows"],
        "moved_partitions": len(done["rebalance"]["moves"]),
        "moved_bytes": sum(it["bytes"] for it in done["rebalance"]["moves"]),
        "writes": writer["writes"],
        "orders": writer["orders"],
        "orders_equal": writer["orders_equal"],
        "write_errors": writer["errors"],
        "lost_writes": writer["lost"],
    }
    equal = facts["answers_equal"] and facts["orders_equal"]
    facts["ok"] = equal and not facts["write_errors"] and not facts["lost_writes"]
    return {**facts, "steps": done}
