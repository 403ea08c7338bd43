"""The options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def _one_of(*modes: str) -> Callable[[str], str]:
    def checked(mode: str) -> str:
        if mode not in modes:
            raise typer.BadParameter(f"got --mode {mode!r}, expected {', '.join(modes[:-1])} or {modes[-1]}")
        return mode

    return checked


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
ModeOption = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="auto|trigger|logical|block",
        callback=_one_of("auto", "trigger", "logical", "block"),
        help="How writes are dealt with meanwhile.",
    ),
]
OnlineModeOption = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="auto|trigger|logical",
        callback=_one_of("auto", "trigger", "logical"),
        help="How writes are noted meanwhile.",
    ),
]
