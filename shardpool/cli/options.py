"""The options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def _mode(help_text: str, *modes: str) -> Any:
    def checked(mode: str) -> str:
        if mode not in modes:
            raise typer.BadParameter(f"got --mode {mode!r}, expected {', '.join(modes[:-1])} or {modes[-1]}")
        return mode

    return typer.Option("--mode", metavar="|".join(modes), callback=checked, help=help_text)


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
ModeOption = Annotated[str, _mode("How writes are dealt with meanwhile.", "auto", "trigger", "logical", "block")]
OnlineModeOption = Annotated[str, _mode("How writes are noted meanwhile.", "auto", "trigger", "logical")]
