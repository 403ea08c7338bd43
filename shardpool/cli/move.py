"""``move``: one partition to another shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from shardpool.cli.output import show
from shardpool.cli.values import duration, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shardpool.router import Router

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _noun() -> None:
    """Move a partition to another shard, see and finish moves."""


@app.command()
def start(
    partition: Annotated[int, typer.Argument(metavar="PARTITION", help="The partition's number.")],
    shard: Annotated[str, typer.Argument(metavar="SHARD", help="Where it is to live.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Move one partition. Writes to it wait meanwhile; reads, and all other partitions, do not."""
    from shardpool.cli.moving import watched_moves
    from shardpool.moves import move_partition
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        source = router.shard_map.owner(partition).name
        with watched_moves({partition: f"{source} → {shard}"}, quiet=as_json) as progress:
            report = move_partition(router, partition, shard, progress=progress)
    show(report_facts(report), as_json, _report_picture)


@app.command("status")
def status_command(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show the moves that are under way, or were interrupted."""
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        facts = {"moves": read_moves(router)}
    show(facts, as_json, moves_picture)


@app.command()
def recover(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Finish or undo the moves whose process died, and remove what they left behind."""
    from shardpool.moves import recover_moves
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        facts = {"recovered": recover_moves(router)}
    show(facts, as_json, _recovered_picture)
