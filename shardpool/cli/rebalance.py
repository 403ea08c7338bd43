"""``rebalance``: a plan of moves, and carrying it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, cast, get_args

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from shardpool.cli.output import show, stdout
from shardpool.cli.values import duration, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shardpool.moves import ProposedSplit, RebalancePlan

Measure = Literal["bytes", "rows", "count", "load"]
MEASURES = get_args(Measure)


class Workers(TypedDict):
    """What carries out a plan, as `apply_rebalance` takes it."""

    parallel: int
    per_shard: int
    executor: str


def rebalance(
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would move.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Move the partitions of the plan.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the plan that was interrupted.")] = False,
    by: Annotated[str, typer.Option("--by", metavar="bytes|rows|count|load", help="What to balance.")] = "bytes",
    parallel: Annotated[int, typer.Option("--parallel", min=1, help="How many partitions move at a time.")] = 1,
    per_shard: Annotated[int, typer.Option("--per-shard", min=1, help="How many to or from one shard.")] = 1,
    executor: Annotated[
        str,
        typer.Option(
            "--executor", metavar="threads|processes|auto|dask://HOST:PORT", help="Where moves are worked on."
        ),
    ] = "threads",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Balance the partitions over the shards with the fewest bytes moved.

    Shares are in proportion to capacities (shard set). Draining shards are emptied, closed ones are left as they are.
    By load, rows read and written within five seconds count. Interrupted, it undoes the moves under way; killed, it is
    gone on with by --resume.
    """
    if plan + apply + resume != 1:
        raise typer.BadParameter("say one of --plan, --apply and --resume")
    if by not in MEASURES:
        raise typer.BadParameter(f"got --by {by!r}, expected one of {', '.join(MEASURES)}")
    from shardpool.bulk.executors import check_name
    from shardpool.errors import JobRefused
    from shardpool.moves import plan_rebalance
    from shardpool.router import Router

    try:
        check_name(executor)
    except JobRefused as error:
        raise typer.BadParameter(str(error)) from error
    workers: Workers = {"parallel": parallel, "per_shard": per_shard, "executor": executor}
    with Router.from_file(config, listen=False) as router:
        if resume:
            show({"reports": _resume(router, workers, as_json), "applied": True}, as_json, _done_picture)
            return
        planned = plan_rebalance(router, by=cast(Measure, by))
        facts = plan_facts(planned)
        if plan or not planned.moves:
            show({**facts, "applied": False}, as_json, plan_picture)
            return
        if not as_json:
            stdout().print(plan_picture(facts))
        facts["reports"] = _apply(router, planned, workers, as_json)
    facts["applied"] = True
    show(facts, as_json, _done_picture)


def _resume(router: Any, workers: Workers, quiet: bool) -> list[dict[str, Any]]:
    from shardpool.cli.move import report_facts
    from shardpool.cli.moving import watched_moves
    from shardpool.moves import resume_rebalance

    with watched_moves({}, quiet=quiet) as progress:
        reports = resume_rebalance(router, **workers, progress=progress)
    if reports is None:
        raise typer.BadParameter("no plan was interrupted: say --plan or --apply")
    return [report_facts(it) for it in reports]


def _apply(router: Any, planned: RebalancePlan, workers: Workers, quiet: bool) -> list[dict[str, Any]]:
    from shardpool.cli.move import report_facts
    from shardpool.cli.moving import watched_moves
    from shardpool.moves import apply_rebalance

    labels = {it.partition: f"{it.source} → {it.target}" for it in planned.moves}
    with watched_moves(labels, quiet=quiet) as progress:
        reports = apply_rebalance(router, planned, **workers, progress=progress)
    return [report_facts(it) for it in reports]


def plan_facts(planned: RebalancePlan) -> dict[str, Any]:
    """Return a plan as plain values."""
    return {
        "measure": planned.measure,
        "moves": planned.moves,
        "bytes": planned.bytes,
        "seconds": round(planned.seconds, 1),
        "bytes_per_second": round(planned.rate),
        "before": planned.before,
        "after": planned.after,
        "imbalance_before": round(planned.imbalance_before, 4),
        "imbalance_after": round(planned.imbalance_after, 4),
        "splits": planned.splits,
        "imbalance_split": None if planned.imbalance_split is None else round(planned.imbalance_split, 4),
    }


def plan_picture(facts: dict[str, Any]) -> RenderableType:
    """Draw a plan: the moves, and each shard before and after."""
    from rich.console import Group
    from rich.text import Text

    from shardpool.cli.tables import new_table

    splits = [Text(_advice(it, facts), style="yellow") for it in facts["splits"]]
    if not facts["moves"]:
        return Group(Text(f"balanced by {facts['measure']}: nothing to move", style="green"), *splits)
    moves = new_table("partition>", "from", "to", "bytes>", "rows>")
    for it in facts["moves"]:
        moves.add_row(f"{it.partition:02}", it.source, it.target, size(it.bytes), f"{it.rows:,}")
    before, after = facts["imbalance_before"], facts["imbalance_after"]
    moved = (
        f"{_moves(len(facts['moves']))}, {size(facts['bytes'])}, about {duration(facts['seconds'])} one after another"
    )
    told = f"{moved}; imbalance by {facts['measure']} {before:.0%} → {after:.0%}"
    return Group(moves, Text(""), _balance(facts), Text(""), Text(told, style="bold"), *splits)


def _advice(split: ProposedSplit, facts: dict[str, Any]) -> str:
    return (
        f"partition {split.partition:02} has {split.times:.1f} times what a shard should have: "
        f"shardpool partition split {split.partition}, in {split.parts}; "
        f"the imbalance could be {facts['imbalance_split']:.0%} then"
    )


def _balance(facts: dict[str, Any]) -> RenderableType:
    """Each shard before and after: partitions, bytes, and a bar of the latter."""
    from rich.text import Text

    from shardpool.cli.maps import bar, natural_order
    from shardpool.cli.tables import new_table

    largest = max(it.bytes for it in (*facts["before"].values(), *facts["after"].values()))
    names = natural_order(facts["after"])
    table = new_table("shard", "partitions", "before", "after")
    for name in names:
        before, after = facts["before"][name], facts["after"][name]
        count = Text(f"{before.count:2} → {after.count:2}", style="" if before.count == after.count else "bold")
        table.add_row(name, count, bar(name, names, before.bytes, largest), bar(name, names, after.bytes, largest))
    return table


def _done_picture(facts: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from shardpool.cli.tables import new_table

    table = new_table("partition>", "from", "to", "rows>", "time>", "its writers waited>")
    for it in facts["reports"]:
        times = duration(it["seconds"]), duration(it["pause"])
        table.add_row(f"{it['partition']:02}", it["source"], it["target"], f"{it['rows']:,}", *times)
    seconds = sum(it["seconds"] for it in facts["reports"])
    done = f"{_moves(len(facts['reports']))} done in {duration(seconds)}"
    return Group(Text(""), table, Text(done, style="green"))


def _moves(count: int) -> str:
    return f"{count} move{'s' * (count != 1)}"
