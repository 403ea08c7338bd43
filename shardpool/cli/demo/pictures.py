"""How each step looks. Every function is given the step's facts, and those of all steps so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from shardpool.cli.maps import colour_of, shard_map_picture
from shardpool.cli.plans import statement
from shardpool.cli.query import result_table
from shardpool.cli.rebalance import plan_picture as rebalance_picture
from shardpool.cli.tables import new_table
from shardpool.cli.values import duration, size

Facts = Mapping[str, Any]

LEVELS = "▁▂▃▄▅▆▇█"


def welcome(scale: float) -> RenderableType:
    """What is going to happen."""
    text = (
        "A table is split by the hash of a key into partitions. A partition is a PostgreSQL schema on one of several "
        "servers, the shards. Statements with a key go to its partition, other queries to all of them, and partitions "
        f"move between servers while they are used.\n\nHere it is, on real servers, with TPC-H data (scale {scale:g}), "
        "and beside it one plain PostgreSQL that has to give the same answers."
    )
    return Panel(text, title="[bold]shardpool demo[/bold]", title_align="left", box=box.ROUNDED, padding=(1, 2))


def start(facts: Facts, _: Facts) -> RenderableType:
    names = list(facts["shards"])
    servers = ", ".join(f"[{colour_of(name, names)}]{name}[/]" for name in names)
    return Text.from_markup(
        f"{servers} were started in {duration(facts['start_seconds'])}, {facts['partitions']} partitions are dealt to "
        f"them. tpchgen-cli has written {size(facts['bytes'])} of TPC-H data."
    )


def create(facts: Facts, _: Facts) -> RenderableType:
    table = new_table("table", "lives", "partition key")
    for name, key in facts["tables"].items():
        where = Text("split over 16 partitions") if key else Text("whole on every shard", style="dim")
        table.add_row(name, where, ", ".join(key))
    done = f"{facts['statements']} statements of schemas/tpch.sql in {duration(facts['create_seconds'])}"
    return Group(table, Text(done, style="dim"))


def load(facts: Facts, _: Facts) -> RenderableType:
    table = new_table("table", "rows>", "time>", "rows/s>")
    for it in facts["loads"]:
        rate = it["rows"] / it["seconds"] if it["seconds"] else 0
        table.add_row(it["table"], f"{it['rows']:,}", duration(it["seconds"]), f"{rate:,.0f}")
    rows, seconds, plain = facts["rows"], facts["load_seconds"], facts["plain_seconds"]
    told = f"{rows:,} rows in {duration(seconds)}; into the one plain PostgreSQL in {duration(plain)}"
    return Group(
        table,
        Text(told, style="dim"),
        Text("\nThe shard map: one cell per partition\n"),
        shard_map_picture(facts["map"]),
    )


def route(facts: Facts, steps: Facts) -> RenderableType:
    table = new_table("statement", "partition>", "shard", "routed>", "bare cursor>")
    for it in facts["routed"]:
        times = _ms(it["ms"]), _ms(it["plain_ms"])
        sql = it["sql"].replace(":key", str(it["key"]))
        table.add_row(Text(sql), f"{it['partition']:02}", _shard(it["shard"], steps), *times)
    told = (
        "The partition is found in this process: one round trip. Beside it a bare psycopg2 cursor on the plain server."
    )
    return Group(table, Text(told, style="dim"))


def report(facts: Facts, _: Facts) -> RenderableType:
    table = result_table({"columns": facts["columns"], "rows": facts["report"]})
    told = Text.assemble(_equal(facts["equal"]), f" {_ms(facts['ms'])} on 3 shards, {_ms(facts['plain_ms'])} on one")
    return Group(statement(facts["sql"]), Text(""), facts["picture"], Text(""), table, Text(""), told)


def answers_before(facts: Facts, steps: Facts) -> RenderableType:
    told = "This is about answers, not speed: so little data fits into one server's memory, and gathering costs time."
    return Group(answers(facts, steps), Text(told, style="dim"))


def answers(facts: Facts, _: Facts) -> RenderableType:
    table = new_table("TPC-H", "about", "route", "rows>", "shards>", "plain server>", "answer")
    for it in facts["answers"]:
        times = _ms(it["ms"]), _ms(it["plain_ms"])
        table.add_row(it["query"], it["about"], it["route"], str(it["rows"]), *times, _equal(it["equal"]))
    return table


def grow(facts: Facts, _: Facts) -> RenderableType:
    told = Text.assemble("Shard ", (facts["shard"], "bold"), " is empty. The plan that moves the fewest bytes:")
    return Group(told, Text(""), rebalance_picture(facts["plan"]))


def rebalance(facts: Facts, steps: Facts) -> RenderableType:
    table = new_table("partition>", "from", "to", "rows>", "copied>", "time>", "its writers waited>")
    for it in facts["moves"]:
        cells = [f"{it['rows']:,}", size(it["bytes"]), duration(it["seconds"]), duration(it["pause"])]
        table.add_row(f"{it['partition']:02}", it["source"], it["target"], *cells)
    told = (
        f"\nMoves work {facts['share']:.0%} of the time here; by themselves they make way for others, and take longer."
    )
    return Group(
        table,
        Text(told),
        Text("\nThe writers meanwhile\n", style="bold"),
        _writers(facts["writer"]),
        Text("\nBefore\n"),
        shard_map_picture(steps["load"]["map"]),
        Text("\nAfter (> moved here, in the colour of its old home)\n"),
        shard_map_picture(facts["map"], facts["homes"], largest=max(it["bytes"] for it in steps["load"]["map"])),
    )


def _writers(facts: Facts) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    quiet, moving = facts["quiet_ms"], facts["moving_ms"]
    writes = f"{facts['inserted']:,} inserts and {facts['updated']:,} updates by {facts['threads']} threads"
    table.add_row("writes", writes)
    table.add_row("errors", _zero(facts["errors"]))
    table.add_row("lost afterwards", _zero(facts["lost"]))
    for name, it in (("latency before", quiet), ("latency during", moving)):
        if it:
            table.add_row(name, f"p50 {_ms(it['p50'])}   p99 {_ms(it['p99'])}   max {_ms(it['max'])}")
    table.add_row(f"worst per {facts['timeline']['interval_ms']:.0f} ms", _timeline(facts["timeline"]))
    return table


def _timeline(facts: Facts) -> Text:
    """The worst latency of each interval as a bar; the rebalance is between the two lines."""
    highest = max(facts["worst_ms"]) or 1.0
    text = Text()
    first, last = facts["moving"]
    for place, worst in enumerate(facts["worst_ms"]):
        if place in (first, last):
            text.append("│", style="dim")
        level = round(worst / highest * (len(LEVELS) - 1)) if worst else 0
        text.append(LEVELS[level], style="yellow" if first <= place < last else "green")
    if last == len(facts["worst_ms"]):
        text.append("│", style="dim")
    return text


def farewell(facts: Facts) -> RenderableType:
    """What was shown, in four lines, and what to do next."""
    mark = "[bold green]✓[/bold green]" if facts["ok"] else "[bold red]✗[/bold red]"
    equal = "all equal" if facts["answers_equal"] and facts["orders_equal"] else "[bold red]NOT all equal[/bold red]"
    moved = f"{facts['moved_partitions']} partitions ({size(facts['moved_bytes'])})"
    lines = [
        f"{facts['rows']:,} rows over 3 shards, then 4",
        f"{facts['answers']} answers, and all {facts['orders']:,} orders, compared with one plain PostgreSQL: {equal}",
        f"{moved} moved under {facts['writes']:,} writes: {facts['write_errors']} errors, {facts['lost_writes']} lost",
        f"{duration(facts['seconds'])} in all  [dim]{_times(facts['steps'])}[/dim]",
    ]
    if "config" in facts:
        lines += ["", f"the cluster runs until Ctrl-C:  export SHARDPOOL_CONFIG={facts['config']}"]
    else:
        lines += ["", "a cluster of your own:  shardpool up", "this one, kept running:  shardpool demo --keep"]
    body = Text.from_markup("\n".join(lines))
    return Group(Text(""), Panel(body, title=f"{mark} done", title_align="left", box=box.ROUNDED, padding=(1, 2)))


def _times(steps: Facts) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {duration(it['seconds'])}" for name, it in steps.items())


# -- pieces ---------------------------------------------------------------------------------------------------------


def _shard(name: str, steps: Facts) -> Text:
    return Text(name, colour_of(name, list(steps["start"]["shards"])))


def _ms(milliseconds: float) -> str:
    return duration(milliseconds / 1000)


def _equal(equal: bool) -> Text:
    return Text("✓ equal", style="green") if equal else Text("✗ differs", style="bold red")


def _zero(count: int) -> Text:
    return Text(str(count), style="green" if not count else "bold red")
