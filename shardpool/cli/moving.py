"""Live progress of moves: one line per partition, with the step it is at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from shardpool.cli.output import stderr

#: As `shardpool.moves.progress` has it, which is imported later.
DONE = "done"

if TYPE_CHECKING:
    from rich.console import Console

    from shardpool.moves import MoveProgress

Report = Callable[["MoveProgress"], object]


@contextmanager
def watched_moves(
    labels: Mapping[int, str], *, quiet: bool = False, console: Console | None = None
) -> Iterator[Report | None]:
    """Yield a callback for moves that draws their progress on stderr; None if *quiet*. *labels* are by partition."""
    if quiet:
        yield None
        return
    display = Progress(
        TextColumn("{task.description}"),
        BarColumn(complete_style="cyan", finished_style="green"),
        DownloadColumn(),
        TextColumn("[dim]{task.fields[step]}[/dim]"),
        TimeElapsedColumn(),
        console=console or stderr(),
        transient=console is not None,
        disable=not (console or stderr()).is_terminal,
    )
    tasks: dict[int, TaskID] = {}

    def report(state: MoveProgress) -> None:
        if state.partition not in tasks:
            label = labels.get(state.partition, "")
            tasks[state.partition] = display.add_task(
                f"partition {state.partition:02}  {label}", step=state.step, total=None
            )
        if state.step == DONE:
            _finish(display, tasks[state.partition])
            return
        total = max(state.total_bytes, state.bytes) or None
        display.update(tasks[state.partition], completed=state.bytes, total=total, step=state.step)

    with display:
        yield report
        for task in tasks.values():
            _finish(display, task)


def _finish(display: Progress, task: TaskID) -> None:
    """The total was an estimate: what has arrived is all there is."""
    done = next(it.completed for it in display.tasks if it.id == task)
    display.update(task, total=max(done, 1), completed=max(done, 1), step="done")
    display.stop_task(task)
