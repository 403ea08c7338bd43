"""The commands, and the help that lists them."""

from __future__ import annotations

from typing import Annotated

import typer

from shardpool.cli import (
    cluster,
    demo,
    doctor,
    job,
    load,
    move,
    partition,
    query,
    rebalance,
    schema,
    shard,
    status,
    transactions,
    unique,
)

EXIT_CODES = """[bold]Exit codes[/bold]

  0    done, or all is well
  1    the statement failed, or a check found something wrong
  2    wrong usage or configuration
  3    a shard or the catalog does not answer
  130  interrupted by Ctrl-C"""

app = typer.Typer(
    name="shardpool",
    help="PostgreSQL sharding inside a Python process: route by key, query over all shards, move partitions.",
    epilog=EXIT_CODES,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

START, ASK, CHANGE, OPERATE = "Start", "Ask", "Change", "Operate"

app.command("demo", rich_help_panel=START)(demo.demo)
app.command("up", rich_help_panel=START)(cluster.up)
app.command("init", rich_help_panel=START)(cluster.init)
app.command("query", rich_help_panel=ASK)(query.query)
app.command("explain", rich_help_panel=ASK)(query.explain)
app.command("status", rich_help_panel=ASK)(status.status)
app.command("doctor", rich_help_panel=ASK)(doctor.doctor)
app.add_typer(schema.app, name="schema", rich_help_panel=CHANGE)
app.command("load", rich_help_panel=CHANGE)(load.load)
app.add_typer(unique.app, name="unique", rich_help_panel=CHANGE)
app.add_typer(shard.app, name="shard", rich_help_panel=OPERATE)
app.command("rebalance", rich_help_panel=OPERATE)(rebalance.rebalance)
app.add_typer(job.app, name="job", rich_help_panel=OPERATE)
app.add_typer(move.app, name="move", rich_help_panel=OPERATE)
app.add_typer(partition.app, name="partition", rich_help_panel=OPERATE)
app.add_typer(transactions.app, name="transactions", rich_help_panel=OPERATE)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"shardpool {version('shardpool')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """PostgreSQL sharding inside a Python process: route by key, query over all shards, move partitions."""
