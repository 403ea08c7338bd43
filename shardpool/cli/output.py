"""Printing: a document as JSON, or as the picture that a command draws of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Facts = Mapping[str, Any]

#: Columns of output that goes to a file or a pipe, unless COLUMNS says otherwise.
PIPE_WIDTH = 120


def show(facts: Facts, as_json: bool, picture: Callable[[Any], RenderableType]) -> None:
    """Print *facts*: as one JSON document, or as *picture* draws them."""
    if as_json:
        print_json(facts)
    else:
        stdout().print(picture(facts))


def print_json(document: object) -> None:
    from shardpool.cli.values import to_json

    sys.stdout.write(to_json(document) + "\n")
    sys.stdout.flush()


def stdout(**options: Any) -> Console:
    return _console(False, **options)


def stderr(**options: Any) -> Console:
    """For progress and errors, so that stdout holds results only."""
    return _console(True, **options)


def _console(to_stderr: bool, **options: Any) -> Console:
    from rich.console import Console

    console = Console(stderr=to_stderr, highlight=False, **options)
    if "width" not in options and not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


def print_error(type: str, message: str, *, as_json: bool, retryable: bool = False, code: str | None = None) -> None:
    """Print what went wrong: as one red line on stderr, or as a JSON document on stdout."""
    if as_json:
        error: dict[str, Any] = {"type": type, "message": message, "retryable": retryable}
        if code:
            error["code"] = code
        sys.stdout.write(json.dumps({"error": error}, ensure_ascii=False) + "\n")
        return
    from rich.text import Text

    stderr().print(Text(f"error: {message}", style="red"), soft_wrap=True)
