"""``init`` makes plain databases into a keyspace; ``up`` runs a cluster of local servers at a terminal."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from shardpool.cli.output import show, stderr

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERRUPTED = 130


def init(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Create catalog, keyspace and partitions on the servers of the configuration. May be run again."""
    from shardpool.cli.status import read_status, status_picture
    from shardpool.config import read_config
    from shardpool.router import Router

    settings = read_config(config)
    Router.initialise(settings)
    with Router(settings, listen=False) as router:
        facts = read_status(router)
    show(facts, as_json, status_picture)


def up(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIRECTORY", help="Where the data stays; without it, the data goes in the end."),
    ] = None,
    shards: Annotated[int, typer.Option("--shards", min=1, max=32, help="Servers to start.")] = 3,
    partitions: Annotated[
        int, typer.Option("--partitions", min=1, max=9999, help="Partitions of a new keyspace.")
    ] = 16,
    keyspace: Annotated[str | None, typer.Option("--keyspace", help="A new keyspace's name.  [default: app]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run local PostgreSQL servers as one keyspace until Ctrl-C, and write their cluster.toml."""
    from shardpool.cli.local_config import read_local_config, write_local_config
    from shardpool.cli.status import read_status, status_picture
    from shardpool.local import LocalCluster
    from shardpool.router import Router

    known = read_local_config(directory / "cluster.toml") if directory is not None else None
    name = keyspace or (known.keyspace if known is not None else "app")
    if known is not None and known.keyspace != name:
        raise typer.BadParameter(f"{directory} holds the keyspace {known.keyspace!r}, not {name!r}")
    with LocalCluster(shards, known.partitions if known else partitions, directory=directory, keyspace=name) as cluster:
        config = write_local_config(cluster, cluster.directory / "cluster.toml", known)
        Router.initialise(config)
        with Router(config, listen=False) as router:
            facts = {**read_status(router), "config": config.source, "directory": str(cluster.directory)}
        ended = catch_the_end()
        show(facts, as_json, lambda it: _up_picture(status_picture(it), it, directory is not None))
        ended.wait()
        if not as_json:
            stderr().print("stopping", style="dim")
    raise typer.Exit(INTERRUPTED)


def _up_picture(status: RenderableType, facts: dict[str, Any], kept: bool) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    first = facts["shards"][0]["url"].replace("+psycopg2", "")
    lines = Text()
    lines.append("in another terminal\n", style="dim")
    lines.append(f"  export SHARDPOOL_CONFIG={facts['config']}\n")
    lines.append("  shardpool status\n\n")
    lines.append("in Python\n", style="dim")
    lines.append(f'  from shardpool import Router\n  router = Router.from_file("{facts["config"]}")\n\n')
    lines.append("one shard, with any PostgreSQL client\n", style="dim")
    lines.append(f"  {first}\n\n")
    lines.append("Ctrl-C stops the servers" + (", the data stays" if kept else " and removes the data"), style="bold")
    panel = Panel(lines, title="[bold green]up[/bold green]", title_align="left", box=box.ROUNDED, padding=(1, 2))
    return Group(status, Text(""), panel)


def catch_the_end() -> threading.Event:
    """From now on, Ctrl-C and SIGTERM only set the event: the servers are shut down in order in both cases."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    return ended
