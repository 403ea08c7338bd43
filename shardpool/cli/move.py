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
