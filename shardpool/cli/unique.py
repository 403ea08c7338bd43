"""``unique``: make a column of a table with rows unique over all partitions, and give that up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from shardpool.cli.output import show, stderr, stdout
from shardpool.cli.values import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shardpool.moves.unique import UniqueProgress

app = typer.Typer(no_args_is_help=True)

#: The exit code if there are values twice.
FAILED = 1

TableArgument = Annotated[str, typer.Argument(metavar="TABLE", help="A sharded table.")]
ColumnArgument = Annotated[str, typer.Argument(metavar="COLUMN", help="A column that is not its key.")]


@app.callback()
def _noun() -> None:
    """Make columns unique over all partitions while everybody goes on. Partitions get new numbers, where they are."""


@app.command()
def add(
    table: TableArgument,
    column: ColumnArgument,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="NAME", help="The table of reservations to create; else TABLE_COLUMN."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would be done.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Make a column unique; values that are there twice are told, and then nothing is changed.

    What was left by a process that died is gone on with. Ctrl-C undoes it.
    """
    from shardpool.moves.unique import add_unique, plan_unique, unfinished_build
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        facts: dict[str, Any] = {"applied": not plan}
        planned = None
        if plan or unfinished_build(router.catalog) is None:
            planned = plan_unique(router, table, column, into)
            facts |= {"plan": planned, "text": str(planned)}
        if plan:
            show(facts, as_json, _plan_picture)
            if planned is not None and planned.duplicates:
                raise typer.Exit(FAILED)
            return
        if not as_json and "text" in facts:
            stdout().print(_plan_picture(facts))
        with _watched(as_json) as progress:
            facts["report"] = add_unique(router, table, column, into, plan=planned, progress=progress)
    show(facts, as_json, _done_picture)


@app.command()
def drop(
    table: TableArgument,
    column: ColumnArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Have a column unique no more, or give up what a process that died has left: its reservations are dropped."""
    from shardpool.moves.unique import drop_unique
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        drop_unique(router, table, column)
    show({"table": table, "column": column}, as_json, _dropped_picture)


@contextmanager
def _watched(quiet: bool) -> Iterator[Callable[[UniqueProgress], object] | None]:
    """Yield a callback that draws the progress on stderr; None if *quiet*."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    if quiet:
        yield None
        return
    display = Progress(
        TextColumn("{task.description:9}"),
        BarColumn(complete_style="cyan", finished_style="green"),
        TextColumn("{task.completed} of {task.total} partitions, {task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        console=stderr(),
        disable=not stderr().is_terminal,
    )
    task = display.add_task("create", total=None, rows=0)

    def report(state: UniqueProgress) -> None:
        display.update(task, description=state.step, completed=state.done, total=state.partitions, rows=state.rows)

    with display:
        yield report


def _plan_picture(facts: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    return Text(facts["text"])


def _done_picture(facts: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    report = facts["report"]
    return Text.assemble(
        (f"{report.table}.{report.column} is unique", "green"),
        f"  {report.rows:,} values in {report.reservations}, {duration(report.seconds)}; writers of a partition waited "
        f"{duration(report.pause)} at most",
    )


def _dropped_picture(facts: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    return Text(f"{facts['table']}.{facts['column']} is not unique any more", style="green")
