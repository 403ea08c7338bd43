"""``load``: files into a table, each file whole or not at all."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from shardpool.cli.output import show, stderr
from shardpool.cli.values import duration, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from shardpool.bulk import LoadProgress
    from shardpool.router import Router


def load(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table to load into.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="CSV (.csv, .tbl) or COPY text files (.tsv, .txt, .copy), also with .gz. - reads stdin.",
        ),
    ],
    format: Annotated[
        str | None, typer.Option("--format", metavar="csv|text", help="COPY's format, where the suffix does not tell.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option("--delimiter", "-d", help="The character between columns.")] = None,
    header: Annotated[bool | None, typer.Option(help="Whether the first line names the columns.")] = None,
    null: Annotated[str | None, typer.Option("--null", help="The text that stands for NULL.")] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="A,B,..", help="The file's columns, where it has no header.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Load files: rows are split by partition key and copied into all partitions at once."""
    _check_files(files)
    from shardpool.router import Router

    options: dict[str, Any] = {
        "format": format,
        "delimiter": delimiter,
        "header": header,
        "null": null,
        "columns": columns.split(",") if columns else None,
    }
    with Router.from_file(config, listen=False) as router:
        loaded = [{"file": str(file), **_load(router, table, file, options, as_json)} for file in files]
    totals = {name: sum(it[name] for it in loaded) for name in ("rows", "bytes", "seconds")}
    show({"table": table, "files": loaded, **totals}, as_json, _picture)


def _check_files(files: list[Path]) -> None:
    for file in files:
        if str(file) != "-" and not file.is_file() and not file.is_fifo():
            raise typer.BadParameter(f"no file {str(file)!r}")


def _load(router: Router, table: str, file: Path, options: dict[str, Any], quiet: bool) -> dict[str, Any]:
    source: Any = sys.stdin.buffer if str(file) == "-" else file
    with nullcontext() if quiet else load_progress() as progress:
        report = progress_callback(progress, f"{table} ← {file.name}") if progress is not None else None
        result = router.copy_into(table, source, progress=report, **options)
    return {
        "rows": result.rows,
        "bytes": result.bytes,
        "seconds": result.seconds,
        "partitions": len(result.partitions),
    }


def load_progress(console: Console | None = None) -> Progress:
    """Return a progress display: on stderr, or on *console*, where it disappears at the end."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(complete_style="cyan", finished_style="green"),
        DownloadColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TextColumn("[dim]{task.fields[rate]:,.0f} rows/s[/dim]"),
        console=console or stderr(),
        transient=console is not None,
        disable=not (console or stderr()).is_terminal,
    )


def progress_callback(progress: Progress, description: str) -> Any:
    """Return a callback for `copy_into` that moves a new bar of *progress*."""
    task = progress.add_task(description, total=None, rows=0, rate=0.0)

    def report(state: LoadProgress) -> None:
        rate = state.rows / state.seconds if state.seconds else 0.0
        progress.update(task, completed=state.bytes, total=state.total_bytes, rows=state.rows, rate=rate)

    return report


def _picture(facts: dict[str, Any]) -> Table:
    from rich.text import Text

    from shardpool.cli.tables import new_table

    table = new_table(f"loaded into {facts['table']}", "rows>", "data>", "time>", "rows/s>")
    for it in facts["files"]:
        rate = it["rows"] / it["seconds"] if it["seconds"] else 0
        cells = f"{it['rows']:,}", size(it["bytes"]), duration(it["seconds"]), f"{rate:,.0f}"
        table.add_row(Text(it["file"]), *cells)
    return table
