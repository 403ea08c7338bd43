"""``shard``: servers join and leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from shardpool.cli.output import show

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The shard's name.")]


@app.callback()
def _noun() -> None:
    """Add, drain and remove shards."""


@app.command()
def add(
    name: NameArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="postgresql+psycopg2://user@host:port/database")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Add an empty database as a shard. Partitions come with the next rebalance."""
    from shardpool.moves import add_shard
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        add_shard(router, name, url)
        facts = {"shard": name, "state": router.shard_map.shards[name].state, "epoch": router.shard_map.epoch}
        known = name in router.config.shards
    facts["next"] = ("" if known else f"write [shards.{name}] into {config}, then: ") + "shardpool rebalance --plan"
    show(facts, as_json, _picture)


@app.command("set")
def set_command(
    name: NameArgument,
    capacity: Annotated[
        float | None, typer.Option("--capacity", min=0.001, help="What it is to take beside the others, which have 1.")
    ] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="active|closed", help="closed: keeps what it has, gets nothing."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Say how much of the next rebalance a shard is to take."""
    if state not in (None, "active", "closed"):
        raise typer.BadParameter(f"got --state {state!r}, expected active or closed")
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        if capacity is not None:
            router.catalog.set_shard_capacity(name, capacity)
        if state is not None:
            router.catalog.set_shard_state(name, state)
        router.refresh()
        shard = router.shard_map.shards[name]
        facts = {"shard": name, "state": shard.state, "capacity": shard.capacity, "epoch": router.shard_map.epoch}
    facts["next"] = "shardpool rebalance --plan"
    show(facts, as_json, _picture)


@app.command()
def drain(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Let a shard get no more partitions; the next rebalance moves its own away."""
    from shardpool.cli.rebalance import plan_facts
    from shardpool.moves import drain_shard
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        plan = drain_shard(router, name)
        left = len(router.shard_map.by_shard().get(name, ()))
        facts = {"shard": name, "state": "draining", "partitions": left, "epoch": router.shard_map.epoch}
        facts["plan"] = plan_facts(plan)
    facts["next"] = "shardpool rebalance --apply" if left else f"shardpool shard remove {name}"
    show(facts, as_json, _picture)


@app.command()
def register(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Register a shard's database anew, after an upgrade or a restore made another server of it."""
    from shardpool.moves import register_shard
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        identity = register_shard(router, name)
        state = f"registered as system {identity.system_identifier}, database {identity.database}"
        facts = {"shard": name, "state": state, "epoch": router.shard_map.epoch}
    facts["next"] = "shardpool doctor"
    show(facts, as_json, _picture)


@app.command()
def remove(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Forget a shard that has no partitions left."""
    from shardpool.moves import remove_shard
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        remove_shard(router, name)
        facts = {"shard": name, "state": "removed", "epoch": router.shard_map.epoch}
    facts["next"] = f"remove [shards.{name}] from {config}"
    show(facts, as_json, _picture)


def _picture(facts: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    parts = [f"shard {facts['shard']} is {facts['state']}, epoch {facts['epoch']}"]
    if facts.get("partitions"):
        parts.append(f"{facts['partitions']} partitions to move away")
    return Text.assemble((", ".join(parts), "green"), ("\nnext: " + facts["next"], "dim"))
