"""Live progress of a job: a bar at a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shardpool.cli.output import stderr

if TYPE_CHECKING:
    from rich.console import Console

    from shardpool.jobs import JobProgress

Report = Callable[["JobProgress"], object]

#: Seconds between lines where there is no terminal.
LINE_INTERVAL = 10.0


@contextmanager
def watched_job(*, quiet: bool = False, console: Console | None = None) -> Iterator[Report | None]:
    """Yield a callback that shows a job's progress on stderr; None if *quiet*."""
    console = console or stderr()
    if quiet:
        yield None
    elif console.is_terminal:
        with _bar(console) as report:
            yield report
    else:
        yield _lines(console)


@contextmanager
def _bar(console: Console) -> Iterator[Report]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    display = Progress(
        TextColumn("{task.description}"),
        BarColumn(complete_style="cyan", finished_style="green"),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TextColumn("[dim]{task.fields[rate]:,.0f} rows/s[/dim]"),
        TextColumn("[yellow]{task.fields[left_out]}[/yellow]"),
        TimeElapsedColumn(),
        console=console,
    )
    task = display.add_task("job", total=None, rows=0, rate=0.0, left_out="")

    def report(state: JobProgress) -> None:
        display.update(
            task,
            description=f"{state.name} {state.table}".strip(),
            completed=state.chunks_done,
            total=state.chunks or None,
            rows=state.rows,
            rate=state.rows_per_second,
            left_out=(f"{state.rejected} left out" if state.rejected else "") + _followed(state),
        )

    with display:
        yield report


def _followed(state: JobProgress) -> str:
    if not state.changes and not state.waiting:
        return ""
    return f", {state.changes:,} changes told, {state.waiting:,} wait since {state.lag:.1f} s"


def _lines(console: Console) -> Report:
    told = [time.monotonic() - LINE_INTERVAL]

    def report(state: JobProgress) -> None:
        if state.state == "running" and time.monotonic() - told[0] < LINE_INTERVAL:
            return
        told[0] = time.monotonic()
        left_out = f", {state.rejected} left out" if state.rejected else ""
        console.print(
            f"{state.name}: {state.state}, {state.chunks_done} of {state.chunks} chunks, {state.rows:,} rows, "
            f"{state.rows_per_second:,.0f} rows/s{left_out}{_followed(state)}"
        )

    return report
