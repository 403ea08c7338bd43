"""``schema apply``: DDL for every partition or every shard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from shardpool.cli.output import show
from shardpool.cli.query import read_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shardpool.topology.tables import TableKind

app = typer.Typer(help="Create and change tables.", no_args_is_help=True)

#: Characters of a statement that the table shows.
SHOWN = 72


@app.callback()
def _noun() -> None:
    """Create and change tables."""


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, metavar="FILE", help="A script of DDL.")],
    sharded: Annotated[
        list[str] | None,
        typer.Option("--shard", metavar="TABLE=COLUMN", help="Split a new table by this column. Repeatable."),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option("--reference", metavar="TABLE", help="Keep a new table whole on every shard. Repeatable."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Apply a script to every partition (sharded tables) or every shard (reference tables), everywhere or nowhere.

    New tables are declared in \\[tables] of the configuration, or here. What was applied before is left alone.
    """
    script, tables = read_text(file), read_tables(sharded, reference)
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        reports = router.create_schema(script, tables)
        facts = {
            "statements": reports,
            "applied": sum(it.state == "applied" for it in reports),
            "unchanged": sum(it.state == "unchanged" for it in reports),
            "tables": sorted(router.topology.tables),
            "partitions": len(router.shard_map.partitions),
            "shards": sorted(router.shard_map.shards),
        }
    show(facts, as_json, _picture)


def read_tables(sharded: list[str] | None, reference: list[str] | None) -> dict[str, TableKind]:
    """Read ``table=column`` (or ``table=a,b``) declarations."""
    from shardpool.topology.tables import Reference, Sharded

    tables: dict[str, TableKind] = {name: Reference() for name in reference or ()}
    for item in sharded or ():
        name, _, key = item.partition("=")
        columns = tuple(key.split(","))
        if not name or not all(columns):
            raise typer.BadParameter(f"got --shard {item!r}, expected TABLE=COLUMN")
        tables[name] = Sharded(columns[0] if len(columns) == 1 else columns)
    return tables


def _picture(facts: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from shardpool.cli.tables import new_table

    places = {
        "partition": f"{facts['partitions']} partitions",
        "shard": f"{len(facts['shards'])} shards",
    }
    table = new_table("statement", "where", "state")
    for it in facts["statements"]:
        style = "green" if it.state == "applied" else "dim"
        where = places[it.scope] if it.state == "applied" else ""
        table.add_row(Text(_shortened(it.statement)), where, Text(it.state, style=style))
    return Group(table, Text(f"{facts['applied']} applied, {facts['unchanged']} unchanged", style="dim"))


def _shortened(statement: str) -> str:
    line = " ".join(statement.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
