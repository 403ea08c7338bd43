"""``rebalance``: a plan of moves, and carrying it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from shardpool.cli.output import show, stdout
from shardpool.cli.values import duration, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shardpool.moves import RebalancePlan

Measure = Literal["bytes", "rows", "count"]


def rebalance(
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would move.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Move the partitions of the plan, one after another.")] = False,
    by: Annotated[str, typer.Option("--by", metavar="bytes|rows|count", help="What to balance.")] = "bytes",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Balance the partitions over the shards with the fewest bytes moved. Draining shards are emptied."""
    if plan == apply:
        raise typer.BadParameter("say either --plan or --apply")
    if by not in ("bytes", "rows", "count"):
        raise typer.BadParameter(f"got --by {by!r}, expected bytes, rows or count")
    from shardpool.moves import plan_rebalance
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        planned = plan_rebalance(router, by=cast(Measure, by))
        facts = plan_facts(planned)
        if plan or not planned.moves:
            show({**facts, "applied": False}, as_json, plan_picture)
            return
        if not as_json:
            stdout().print(plan_picture(facts))
        facts["reports"] = _apply(router, planned, as_json)
    facts["applied"] = True
    show(facts, as_json, _done_picture)


def _apply(router: Any, planned: RebalancePlan, quiet: bool) -> list[dict[str, Any]]:
    from shardpool.cli.move import report_facts
    from shardpool.cli.moving import watched_moves
    from shardpool.moves import apply_rebalance

    labels = {it.partition: f"{it.source} → {it.target}" for it in planned.moves}
    with watched_moves(labels, quiet=quiet) as progress:
        return [report_facts(it) for it in apply_rebalance(router, planned, progress=progress)]


def plan_facts(planned: RebalancePlan) -> dict[str, Any]:
    """Return a plan as plain values."""
    return {
        "moves": [
            {"partition": it.partition, "source": it.source, "target": it.target, "bytes": it.bytes, "rows": it.rows}
            for it in planned.moves
        ],
        "bytes": planned.bytes,
        "before": planned.before,
        "after": planned.after,
        "imbalance_before": planned.imbalance_before,
        "imbalance_after": planned.imbalance_after,
    }


def plan_picture(facts: dict[str, Any]) -> RenderableType:
    """Draw a plan: the moves, and each shard before and after."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    if not facts["moves"]:
        return Text("balanced: nothing to move", style="green")
    moves = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("partition", "right"), ("from", "left"), ("to", "left"), ("bytes", "right"), ("rows", "right")):
        moves.add_column(name, justify=cast(Any, justify))
    for it in facts["moves"]:
        moves.add_row(f"{it['partition']:02}", it["source"], it["target"], size(it["bytes"]), f"{it['rows']:,}")
    return Group(moves, _balance(facts), Text(f"{len(facts['moves'])} moves, {size(facts['bytes'])}", style="bold"))


def _balance(facts: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    return Text(f"{facts['before']} -> {facts['after']}")


def _done_picture(facts: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    seconds = sum(it["seconds"] for it in facts["reports"])
    return Text(f"{len(facts['reports'])} partitions moved in {duration(seconds)}", style="green")
