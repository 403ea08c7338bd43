"""The options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CONFIG = Path("cluster.toml")

ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="SHARDPOOL_CONFIG", metavar="FILE", help="The cluster's configuration."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on stdout.")]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="NAME=VALUE",
        help="A value for :NAME. Numbers, true, false and null are recognised; quotes ('007') make text. Repeatable.",
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option("--file", "-f", exists=True, dir_okay=False, metavar="FILE", help="Read the statement from a file."),
]
