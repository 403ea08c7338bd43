"""``transactions``: those that were prepared on several shards and not finished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from shardpool.cli.output import show
from shardpool.cli.values import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shardpool.router import Router
    from shardpool.two_phase import TransactionId

app = typer.Typer(no_args_is_help=True)

FAILED = 1


@app.callback()
def _noun() -> None:
    """See and finish transactions over several shards whose process died, or lost a server, while they committed."""


@app.command("list")
def list_command(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show what is prepared on the shards, neither committed nor rolled back."""
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        facts = {"transactions": _read(router)}
    show(facts, as_json, _picture)


@app.command()
def resolve(
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, metavar="SECONDS", help="Leave younger ones to their process.")
    ] = 5.0,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Finish them, as each one's deciding shard says. Exit code 1 if some could not be finished now."""
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        done = [
            {"shard": it.shard, "gid": it.gid, "committed": it.committed}
            for it in router.resolve_transactions(older_than)
        ]
        left = [it for it in _read(router) if it["age_seconds"] > older_than]
    show({"resolved": done, "left": left}, as_json, _resolved_picture)
    if left:
        raise typer.Exit(FAILED)


def _read(router: Router) -> list[dict[str, Any]]:
    return [
        {
            "transaction": str(it.transaction),
            "shard": it.shard,
            "decider": it.transaction.decider,
            "decision": _decision(router, it.transaction),
            "age_seconds": round(it.age, 1),
            "owner": it.owner,
            "gid": it.gid,
        }
        for it in router.transactions_in_doubt()
    ]


def _decision(router: Router, transaction: TransactionId) -> str:
    from shardpool.errors import NoSuchShard
    from shardpool.two_phase.resolving import recorded
    from shardpool.two_phase.sessions import UNREACHABLE

    try:
        found = recorded(router.engines, transaction)
    except (NoSuchShard, *UNREACHABLE):
        return "decider does not answer"
    return {None: "none yet", True: "commit", False: "roll back"}[found]


def _picture(facts: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    from shardpool.cli.tables import new_table

    if not facts["transactions"]:
        return Text("no transactions in doubt", style="green")
    table = new_table("transaction", "prepared on", "decision", "age>", "owner")
    for it in facts["transactions"]:
        table.add_row(it["transaction"], it["shard"], it["decision"], duration(it["age_seconds"]), it["owner"])
    return table


def _resolved_picture(facts: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    lines = [
        Text(f"{'committed' if it['committed'] else 'rolled back'} on {it['shard']}: {it['gid']}", style="green")
        for it in facts["resolved"]
    ]
    lines += [Text(f"left on {it['shard']} ({it['decision']}): {it['gid']}", style="red") for it in facts["left"]]
    return Group(*lines) if lines else Text("no transactions in doubt", style="green")
