"""The console script: parse, run, and say in one line what went wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import typer
import typer.main

from shardpool.cli.app import app
from shardpool.cli.output import print_error

#: What a wrong command line raises, whichever library typer is built on.
_WrongUsage: Any = typer.BadParameter.__mro__[2]

#: All else that begins so is a statement, whose first line is a comment.
_OPTION = re.compile(r"--([a-z][a-z-]*(=.*)?)?", re.DOTALL)

USAGE = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `app`)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] in (["query"], ["explain"]):
        arguments = [f"\n{it}" if it.startswith("--") and not _OPTION.fullmatch(it) else it for it in arguments]
    as_json = "--json" in arguments
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="shardpool", standalone_mode=False)
    except KeyboardInterrupt:
        return INTERRUPTED
    except typer.Abort:
        return INTERRUPTED
    except _WrongUsage as error:
        message = error.format_message()
        if not message:
            return USAGE  # no arguments: the help was printed
        context = getattr(error, "ctx", None)
        hint = f" (try '{context.command_path} --help')" if context is not None else ""
        print_error("UsageError", message + hint, as_json=as_json)
        return USAGE
    except _reported() as error:
        if isinstance(error, ImportError) and error.name is not None:
            raise  # not a wheel that is missing, but a mistake of ours
        from shardpool.cli.failures import describe, exit_code

        failure = describe(error)
        print_error(failure.type, failure.message, as_json=as_json, retryable=failure.retryable, code=failure.code)
        return exit_code(error)
    return code if isinstance(code, int) else 0


def _reported() -> Any:
    """The errors that are reported in one line. Asked for only when something was raised: the import takes long."""
    from shardpool.cli.failures import REPORTED

    return REPORTED
