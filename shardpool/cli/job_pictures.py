"""What the commands of ``job`` draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {"done": "green", "failed": "red", "interrupted": "red", "running": "cyan"}


def status_picture(facts: dict[str, Any]) -> RenderableType:
    """Draw the jobs."""
    from rich.text import Text

    from shardpool.cli.tables import new_table

    if not facts["jobs"]:
        return Text("no jobs", style="dim")
    table = new_table("job", "kind", "state", "chunks>", "rows>", "left out>", "lag>", "started", "error")
    for it in facts["jobs"]:
        progress = it["progress"]
        table.add_row(
            Text(it["job"]),
            it["kind"],
            Text(it["state"], style=_STYLES.get(it["state"], "yellow")),
            f"{progress.get('chunks_done', 0)}/{progress.get('chunks', 0)}",
            f"{progress.get('rows', 0):,}",
            f"{progress.get('rejected', 0):,}",
            f"{progress['waiting']:,} rows, {progress['lag']:.1f} s" if it["kind"] == "replicate" and progress else "",
            it["started"],
            Text(it["error"]),
        )
    return table


def result_picture(facts: dict[str, Any]) -> RenderableType:
    """Draw how a run ended."""
    from rich.text import Text

    from shardpool.cli.values import duration, size

    style = _STYLES.get(facts["state"], "yellow")
    told = f"{facts['rows']:,} rows, {size(facts['bytes'])} in {duration(facts['seconds'])}"
    if facts["changes"]:
        told += f", {facts['changes']:,} changes since"
    text = Text.assemble((f"job {facts['job']} {facts['state']}", style), f"  {told}")
    if facts["rejected"]:
        text.append(f"; {facts['rejected']:,} rows left out", style="yellow")
    checks = facts["checks"]
    if checks.get("verified_rows"):
        text.append(f"\n{sum(checks['verified_rows'].values()):,} rows compared, all equal")
    if checks.get("pause"):
        text.append(f"; writers waited {duration(checks['pause'])}")
    for it in checks.get("privacy", ()):
        text.append(f"\n{it['table']} ({', '.join(it['quasi'])}): k = {it['k']}")
        text.append(f", l = {it['l']}" if it["l"] is not None else "")
    return text


def plan_picture(facts: Mapping[str, Any]) -> RenderableType:
    """Draw what a job would do."""
    from rich.console import Group
    from rich.text import Text

    from shardpool.cli.tables import new_table

    parts: list[RenderableType] = [Text(f"job {facts['name']} ({facts['job']}): {facts['streams']} streams of rows")]
    if facts.get("columns"):
        table = new_table("column", "rule", "as", "looks personal")
        for it in facts["columns"]:
            name = Text(f"{it['table']}.{it['column']}")
            rule = Text(it["rule"], style="dim" if it["rule"] == "keep" else "green")
            table.add_row(name, rule, Text(it["follows"]), Text(it["warning"], style="yellow"))
        parts.append(table)
    if facts.get("window"):
        low, high = facts["window"]
        parts.append(Text(f"rows above {low or 'all'}, up to {high}"))
    if "proposal" in facts:
        parts += _proposal(facts)
    for sample in facts["samples"]:
        table = new_table(
            *(f"{sample['table']}.{name}" if not at else name for at, name in enumerate(sample["columns"]))
        )
        for row in sample["rows"]:
            table.add_row(*map(Text, row))
        parts.append(table)
    return Group(*parts)


def _proposal(facts: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Draw what is proposed for a database that moves in."""
    from rich.text import Text

    from shardpool.cli.tables import new_table
    from shardpool.cli.values import size

    skews = {it["table"]: it for it in facts["skew"]}
    table = new_table("table", "kind", "key", "rows>", "size>", "largest/mean>", "hottest key>", "in the way")
    for it in facts["proposal"]["tables"]:
        skew = skews.get(it["table"])
        style = {"sharded": "green", "undecided": "red"}.get(it["kind"], "")
        table.add_row(
            Text(it["table"]),
            Text(it["kind"], style=style),
            Text(it["key"]),
            f"{it['rows']:,}",
            size(it["bytes"]),
            f"{skew['largest'] / skew['mean']:.2f}" if skew and skew["mean"] else "",
            f"{skew['hottest']:.1%}" if skew else "",
            Text("; ".join(it["obstacles"]), style="yellow"),
        )
    yield table
    for problem in facts["problems"]:
        yield Text(f"to be removed before the job runs: {problem}", style="red")
    if "query_log" in facts:
        calls = facts["query_log"]["calls"]
        shares = (f"{name} {count / sum(calls.values()):.1%}" for name, count in calls.items())
        yield Text(f"of {sum(calls.values()):,} calls in the query log: {', '.join(shares)}")
        for outcome, shown in facts["query_log"]["examples"].items():
            yield from (Text(f"{outcome}: {statement}", style="yellow") for statement in shown)
    left_out = (f"not taken along: {it['what']}; {it['advice']}" for it in facts["proposal"]["not_taken_along"])
    for line in (*facts["notes"], *left_out):
        yield Text(line, style="yellow")


def wanted_picture(facts: dict[str, Any]) -> RenderableType:
    """Draw what was asked for."""
    from rich.text import Text

    return Text(f"job {facts['job']}: {facts['wanted']} is asked for; see shardpool job status", style="green")


def closed_picture(facts: dict[str, Any]) -> RenderableType:
    """Draw that there is no way back any more."""
    from rich.text import Text

    return Text(f"job {facts['job']}: there is no way back any more", style="green")


def undone_picture(facts: dict[str, Any]) -> RenderableType:
    """Draw that a job was undone."""
    from rich.text import Text

    rows = sum(facts["verified_rows"].values())
    return Text(
        f"job {facts['job']} undone: {rows:,} rows compared, all equal; write the old tables again", style="green"
    )
