"""``move``: one partition to another shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, ModeOption
from shardpool.cli.output import show
from shardpool.cli.values import duration, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shardpool.moves import MoveReport
    from shardpool.moves.modes import Wanted
    from shardpool.router import Router

app = typer.Typer(no_args_is_help=True)

FAILED = 1


@app.callback()
def _noun() -> None:
    """Move a partition to another shard, see and finish moves."""


@app.command()
def start(
    partition: Annotated[int, typer.Argument(metavar="PARTITION", help="The partition's number.")],
    shard: Annotated[str, typer.Argument(metavar="SHARD", help="Where it is to live.")],
    mode: ModeOption = "auto",
    keep: Annotated[
        float, typer.Option("--keep", metavar="SECONDS", min=0, help="Keep the old side so long: see move back.")
    ] = 0.0,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Move one partition while everybody goes on; its writers wait a moment at the end.

    trigger and logical note the keys of rows that are written meanwhile, by triggers or by a replication slot; with
    block, writers of the partition wait for the whole copy. auto takes what is cheapest, and says why.
    Called again, it goes on where an interrupted move stopped.
    """
    from shardpool.cli.moving import watched_moves
    from shardpool.moves import move_partition
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        source = router.shard_map.owner(partition).name
        with watched_moves({partition: f"{source} → {shard}"}, quiet=as_json) as progress:
            report = move_partition(router, partition, shard, mode=cast("Wanted", mode), keep=keep, progress=progress)
    show(report_facts(report), as_json, _report_picture)


@app.command("status")
def status_command(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show the moves that are under way, or were interrupted."""
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        facts = {"moves": read_moves(router)}
    show(facts, as_json, moves_picture)


@app.command()
def back(
    partition: Annotated[int, typer.Argument(metavar="PARTITION", help="The partition's number.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Move a partition back to where it was, while its old side is kept: a cutover, and no copy."""
    from shardpool.cli.moving import watched_moves
    from shardpool.moves import move_partition, move_status
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        kept = [it for it in move_status(router) if it.partition == partition and it.until is not None]
        if not kept:
            raise typer.BadParameter(f"the old side of partition {partition} is not kept: start a move instead")
        with watched_moves({partition: f"back to {kept[0].target}"}, quiet=as_json) as progress:
            report = move_partition(router, partition, kept[0].target, progress=progress)
    show(report_facts(report), as_json, _report_picture)


@app.command()
def abort(
    partition: Annotated[int, typer.Argument(metavar="PARTITION", help="The partition's number.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Undo the move of a partition, wherever it runs. Past its commit point it is completed instead."""
    from shardpool.moves import abort_move
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        facts = {"recovered": [abort_move(router, partition)]}
    show(facts, as_json, _recovered_picture)


@app.command()
def recover(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Finish or undo the moves whose process died, remove what they left behind, and keep ways back current."""
    from shardpool.moves import care_for_moves, recover_moves
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        facts = {"recovered": recover_moves(router)}
        care_for_moves(router)
    show(facts, as_json, _recovered_picture)
    if any(it.outcome == "unsettled" for it in facts["recovered"]):
        raise typer.Exit(FAILED)


def read_moves(router: Router) -> list[dict[str, Any]]:
    """Return the moves under way as plain values."""
    from shardpool.moves import move_status

    return [
        {
            "move": it.move,
            "partition": it.partition,
            "what": it.what,
            "source": it.source,
            "target": it.target,
            "step": it.step,
            "description": it.description,
            "rows": it.rows,
            "bytes": it.bytes,
            "mode": it.mode,
            "total_bytes": it.total_bytes,
            "bytes_per_second": round(it.rate),
            "seconds_left": None if it.left is None else round(it.left, 1),
            "lag_rows": it.lag,
            "until": it.until,
            "silent_seconds": round(it.silent, 1),
            "frozen": it.frozen,
        }
        for it in move_status(router)
    ]


def report_facts(report: MoveReport) -> dict[str, Any]:
    """Return a completed move as plain values; `steps` are the seconds that each took."""
    begun = [*report.steps, ("", report.seconds)]
    lasted = {name: round(begun[at + 1][1] - began, 4) for at, (name, began) in enumerate(report.steps)}
    return {
        "move": report.move,
        "kind": report.kind,
        "partition": report.partition,
        "partitions": list(report.partitions),
        "source": report.source,
        "target": report.target,
        "rows": report.rows,
        "bytes": report.bytes,
        "seconds": round(report.seconds, 4),
        "pause": round(report.pause, 4),
        "steps": lasted,
        "mode": report.mode,
        "reason": report.reason,
        "leftovers": [str(it) for it in report.leftovers],
    }


def moves_picture(facts: dict[str, Any]) -> RenderableType:
    """Draw the moves under way."""
    from rich.text import Text

    from shardpool.cli.tables import new_table

    if not facts["moves"]:
        return Text("no moves under way", style="dim")
    table = new_table("move>", "partition>", "from", "to", "step", "copied>", "speed>", "left>", "behind>", "heard of")
    for it in facts["moves"]:
        last = _heard(it)
        copied = f"{it['rows']:,} rows, {size(it['bytes'])}"
        speed = f"{size(it['bytes_per_second'])}/s" if it["bytes_per_second"] else ""
        left = "" if it["seconds_left"] is None else duration(it["seconds_left"])
        behind = f"{it['lag_rows']:,} rows" if it["mode"] != "block" else ""
        where = f"{it['partition']:02}", it["source"], it["target"], it["description"]
        table.add_row(str(it["move"]), *where, copied, speed, left, behind, last)
    return table


def _heard(it: dict[str, Any]) -> RenderableType:
    """When the move's process was heard of; a way back has none."""
    from rich.text import Text

    if it["until"] is not None:
        return Text("the old side is kept: shardpool move back", style="dim")
    heard = f"{duration(it['silent_seconds'])} ago"
    return Text(f"{heard}: shardpool move recover", style="red") if it["frozen"] else Text(heard, style="dim")


def _report_picture(facts: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    moved = f"partition {facts['partition']:02} moved from {facts['source']} to {facts['target']}"
    told = f"{facts['rows']:,} rows, {size(facts['bytes'])} in {duration(facts['seconds'])}"
    text = Text.assemble((moved, "green"), f"  {told}; its writers waited {duration(facts['pause'])}")
    for leftover in facts["leftovers"]:
        text.append(f"\nleft behind, for shardpool move recover: {leftover}", style="yellow")
    return text


def _recovered_picture(facts: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    if not facts["recovered"]:
        return Text("no unfinished moves", style="green")
    styles = {"completed": "green", "undone": "green", "running": "yellow", "unsettled": "red"}
    return Text("\n").join(Text(str(it), style=styles[it.outcome]) for it in facts["recovered"])
