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
        "measure": planned.measure,
        "moves": planned.moves,
        "bytes": planned.bytes,
        "before": planned.before,
        "after": planned.after,
        "imbalance_before": round(planned.imbalance_before, 4),
        "imbalance_after": round(planned.imbalance_after, 4),
    }


def plan_picture(facts: dict[str, Any]) -> RenderableType:
    """Draw a plan: the moves, and each shard before and after."""
    from rich.console import Group
    from rich.text import Text

    from shardpool.cli.tables import new_table

    if not facts["moves"]:
        return Text(f"balanced by {facts['measure']}: nothing to move", style="green")
    moves = new_table("partition>", "from", "to", "bytes>", "rows>")
    for it in facts["moves"]:
        moves.add_row(f"{it.partition:02}", it.source, it.target, size(it.bytes), f"{it.rows:,}")
    before, after = facts["imbalance_before"], facts["imbalance_after"]
    moved = f"{_moves(len(facts['moves']))}, {size(facts['bytes'])}"
    told = f"{moved}; imbalance by {facts['measure']} {before:.0%} → {after:.0%}"
    return Group(moves, Text(""), _balance(facts), Text(""), Text(told, style="bold"))


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
