"""``partition``: split one, merge neighbours, give a hot key one of its own, and take it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, OnlineModeOption
from shardpool.cli.output import show, stdout
from shardpool.cli.values import duration, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shardpool.moves import ChangePlan
    from shardpool.moves.modes import Wanted
    from shardpool.router import Router

app = typer.Typer(no_args_is_help=True)

PlanOption = Annotated[bool, typer.Option("--plan", help="Only show what would be done.")]
ToOption = Annotated[str | None, typer.Option("--to", metavar="SHARD", help="Where it is to live; else near by.")]
PartitionArgument = Annotated[int, typer.Argument(metavar="PARTITION", help="The partition's number.")]


@app.callback()
def _noun() -> None:
    """Split, merge and pin partitions while everybody goes on. New ones get new numbers, which never come back."""


@app.command()
def split(
    partition: PartitionArgument,
    at: Annotated[int | None, typer.Option("--at", metavar="HASH", help="Where; else in the middle.")] = None,
    to: ToOption = None,
    mode: OnlineModeOption = "auto",
    plan: PlanOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Split a partition in two; the upper one may come to another shard."""
    from shardpool.moves import plan_split

    _change(lambda router: plan_split(router, partition, at, to), mode, plan, config, as_json)


@app.command()
def merge(
    partitions: Annotated[list[int], typer.Argument(metavar="PARTITION...", help="Neighbours.")],
    to: ToOption = None,
    mode: OnlineModeOption = "auto",
    plan: PlanOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Merge neighbours into one, on the shard that has most of them."""
    from shardpool.moves import plan_merge

    _change(lambda router: plan_merge(router, partitions, to), mode, plan, config, as_json)


@app.command()
def pin(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key; parts of a composite one with commas between.")],
    to: ToOption = None,
    mode: OnlineModeOption = "auto",
    plan: PlanOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Give a key a partition of its own."""
    from shardpool.cli.keys import read_key
    from shardpool.moves import plan_pin

    _change(lambda router: plan_pin(router, read_key(key, router.topology), to), mode, plan, config, as_json)


@app.command()
def unpin(
    partition: PartitionArgument,
    to: ToOption = None,
    mode: OnlineModeOption = "auto",
    plan: PlanOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Merge the partition of a pinned key with those it was taken from."""
    from shardpool.moves import plan_unpin

    _change(lambda router: plan_unpin(router, partition, to), mode, plan, config, as_json)


def _change(make: Callable[[Router], ChangePlan], mode: str, only_plan: bool, config: Path, as_json: bool) -> None:
    """Show the plan, and carry it out."""
    from shardpool.cli.move import report_facts
    from shardpool.cli.moving import watched_moves
    from shardpool.moves import change_partitions
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        planned = make(router)
        facts = {**_plan_facts(planned), "applied": not only_plan}
        if only_plan:
            show(facts, as_json, _plan_picture)
            return
        if not as_json:
            stdout().print(_plan_picture(facts))
        labels = {number: planned.kind for number, _ in planned.sources}
        with watched_moves(labels, quiet=as_json) as progress:
            report = change_partitions(router, planned, mode=cast("Wanted", mode), progress=progress)
        facts["report"] = report_facts(report)
    show(facts, as_json, _done_picture)


def _plan_facts(plan: ChangePlan) -> dict[str, Any]:
    return {
        "kind": plan.kind,
        "partitions": [{"partition": number, "shard": shard} for number, shard in plan.sources],
        "pieces": [{"low": it.low, "high": it.high, "shard": it.shard} for it in plan.pieces],
        "rows": plan.rows,
        "bytes": plan.bytes,
        "seconds": round(plan.seconds, 1),
        "text": str(plan),
    }


def _plan_picture(facts: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    return Text(facts["text"])


def _done_picture(facts: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    report = facts["report"]
    old = ", ".join(str(it["partition"]) for it in facts["partitions"])
    new = ", ".join(map(str, report["partitions"]))
    told = f"{report['rows']:,} rows, {size(report['bytes'])} in {duration(report['seconds'])}"
    text = Text.assemble(
        (f"{facts['kind']}: {old} became {new}", "green"),
        f"  {told}; writers waited {duration(report['pause'])}",
    )
    for leftover in report["leftovers"]:
        text.append(f"\nleft behind, for shardpool move recover: {leftover}", style="yellow")
    return text
