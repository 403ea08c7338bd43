"""``status``: shards, partitions, sizes, epoch, moves, connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from shardpool.cli.output import show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shardpool.router import Router

UNAVAILABLE = 3

# Sizes are exact, rows are what the statistics say.
_SIZES = """
SELECT n.nspname, sum(pg_total_relation_size(c.oid))::bigint, sum(pg_stat_get_live_tuples(c.oid))::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname = ANY(%s) AND NOT starts_with(c.relname::text, 'shardpool_') GROUP BY n.nspname
"""
_CONNECTIONS = """
SELECT count(*), count(*) FILTER (WHERE state <> 'idle'), current_setting('max_connections')::int
FROM pg_stat_activity WHERE application_name = %s AND pid <> pg_backend_pid()
"""


def status(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show shards, partitions, sizes, connections and moves. Exit code 3 if a shard does not answer."""
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        facts = read_status(router)
    show(facts, as_json, status_picture)
    if any(not shard["reachable"] for shard in facts["shards"]):
        raise typer.Exit(UNAVAILABLE)


def read_status(router: Router) -> dict[str, Any]:
    """Ask the catalog and all shards."""
    from shardpool.cli.failures import hide_passwords
    from shardpool.cli.maps import natural_order
    from shardpool.cli.move import read_moves
    from shardpool.cli.survey import ask_shards

    topology = router.topology
    placed = topology.shard_map.by_shard()
    schemas = {name: [it.schema for it in placed.get(name, ())] for name in topology.shard_map.shards}

    def ask(shard: str, cursor: Any) -> dict[str, Any]:
        cursor.execute(_SIZES, ([*schemas[shard], topology.keyspace],))
        sizes = {name: (size, rows) for name, size, rows in cursor.fetchall()}
        cursor.execute(_CONNECTIONS, (f"shardpool {topology.keyspace}",))
        total, active, limit = cursor.fetchone()
        return {"sizes": sizes, "connections": {"total": total, "active": active, "limit": limit}}

    answers, failures = ask_shards(router.engines, schemas, ask)
    shards = []
    for name in natural_order(topology.shard_map.shards):
        shard = topology.shard_map.shards[name]
        sizes = answers[name]["sizes"] if name in answers else {}
        shards.append(
            {
                "name": name,
                "url": hide_passwords(shard.url),
                "state": shard.state,
                "reachable": name in answers,
                "error": failures.get(name),
                "bytes": sum(size for size, _ in sizes.values()) if name in answers else None,
                "rows_estimate": sum(rows for _, rows in sizes.values()) if name in answers else None,
                "connections": answers[name]["connections"] if name in answers else None,
                "partitions": [
                    {"id": it.id, "bytes": sizes.get(it.schema, (0, 0))[0] if name in answers else None}
                    for it in placed.get(name, ())
                ],
            }
        )
    return {
        "keyspace": topology.keyspace,
        "epoch": topology.shard_map.epoch,
        "catalog": hide_passwords(router.config.catalog.url),
        "shards": shards,
        "partitions": len(topology.shard_map.partitions),
        "tables": [
            {"name": it.name, "kind": "sharded" if it.sharded else "reference", "key": list(it.key)}
            for it in sorted(topology.tables.values(), key=lambda table: table.name)
        ],
        "moves": read_moves(router),
    }


def status_picture(facts: dict[str, Any]) -> RenderableType:
    """Draw the status."""
    from rich.console import Group
    from rich.text import Text

    from shardpool.cli.maps import shard_map_picture
    from shardpool.cli.move import moves_picture

    sharded = [f"{it['name']} ({', '.join(it['key'])})" for it in facts["tables"] if it["kind"] == "sharded"]
    reference = [it["name"] for it in facts["tables"] if it["kind"] == "reference"]
    head = Text.assemble(
        ("keyspace ", "dim"),
        (facts["keyspace"], "bold"),
        ("   epoch ", "dim"),
        str(facts["epoch"]),
        ("   partitions ", "dim"),
        str(facts["partitions"]),
        ("   catalog ", "dim"),
        facts["catalog"],
    )
    shards = facts["shards"]
    parts: list[RenderableType] = [head, Text(""), shard_map_picture(shards), Text(""), _connections(shards), Text("")]
    parts += [Text(it["error"], style="red") for it in shards if it["error"]]
    if facts["tables"]:
        parts.append(Text.assemble(("sharded tables    ", "dim"), ", ".join(sharded) or "none"))
        parts.append(Text.assemble(("reference tables  ", "dim"), ", ".join(reference) or "none"))
    else:
        parts.append(Text("no tables yet: shardpool schema apply FILE", style="yellow"))
    if facts["moves"]:
        parts += [Text(""), moves_picture({"moves": facts["moves"]})]
    else:
        parts.append(Text.assemble(("moves             ", "dim"), "none"))
    return Group(*parts)


def _connections(shards: list[dict[str, Any]]) -> RenderableType:
    from rich.text import Text

    from shardpool.cli.tables import new_table

    table = new_table("shard", "server", "state", "rows ~>", "shardpool's connections>")
    for shard in shards:
        if shard["reachable"]:
            used = shard["connections"]
            cells = [f"{shard['rows_estimate']:,}", f"{used['total']} ({used['active']} active) of {used['limit']}"]
            state = Text(shard["state"], style="green" if shard["state"] == "active" else "yellow")
        else:
            cells = ["", ""]
            state = Text("unreachable", style="red")
        table.add_row(Text(shard["name"]), Text(shard["url"].partition("://")[2]), state, *cells)
    return table
