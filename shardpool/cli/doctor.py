"""``doctor``: everything that can be wrong with a cluster, as one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from shardpool.cli.output import show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shardpool.cli.checks import Finding

FAILED = 1


def doctor(
    verbose: Annotated[
        bool, typer.Option("--all", "-a", help="Show each shard's results, also the good ones.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="First finish schema changes and loads whose process died half way.")
    ] = False,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE=SHARD", help="First make all copies of a reference table equal to that of a shard."
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Check servers, catalog and tables. Exit code 1 if something is wrong."""
    from shardpool.catalog import Catalog
    from shardpool.cli.checks import examine, read_facts
    from shardpool.config import read_config
    from shardpool.engines import Engines

    settings = read_config(config)
    engines = Engines(settings)
    catalog = Catalog(settings.catalog, settings.keyspace, settings.pool.connect_timeout)
    try:
        repaired = _repair(catalog, engines) if repair else []
        for wish in reference or ():
            repaired += _equal_copies(catalog, engines, wish)
        findings = list(examine(read_facts(settings, engines, catalog)))
    finally:
        engines.close()
        catalog.close()
    counts = {state: sum(it.state == state for it in findings) for state in ("ok", "warning", "wrong")}
    facts = {"healthy": not counts["wrong"], **counts, "repaired": repaired, "findings": findings}
    show(facts, as_json, lambda it: _picture(it, verbose))
    if counts["wrong"]:
        raise typer.Exit(FAILED)


def _repair(catalog: Any, engines: Any) -> list[str]:
    """Finish what is decided already, or undo what is nowhere; return what was done."""
    from shardpool.bulk import resolve_loads
    from shardpool.ddl import SchemaManager

    shards = catalog.load().shard_map.shards
    engines.set_shards(shards)
    done = [f"schema change finished: {it.statement}" for it in SchemaManager(catalog, engines).resume()]
    for it in resolve_loads(catalog, engines, sorted(shards)):
        done.append(f"load on {it.shard} {'committed' if it.committed else 'rolled back'}: {it.gid}")
    return done


def _equal_copies(catalog: Any, engines: Any, wish: str) -> list[str]:
    from shardpool.jobs.reference import repair_reference

    table, _, source = wish.partition("=")
    topology = catalog.load()
    engines.set_shards(topology.shard_map.shards)
    changed = repair_reference(engines, topology, table, source)
    return [f"reference table {table} on shard {shard} made equal to that of {source}" for shard in changed]


def _picture(facts: dict[str, Any], verbose: bool) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from shardpool.cli.tables import new_table

    table = new_table("", "check", "where", "found")
    marks = {"ok": Text("✓", style="green"), "warning": Text("!", style="yellow"), "wrong": Text("✗", style="bold red")}
    for finding in facts["findings"] if verbose else _summed_up(facts["findings"]):
        detail = Text(finding.detail)
        if finding.hint:
            detail.append(f"\n{finding.hint}", style="dim")
        table.add_row(marks[finding.state], finding.check, Text(finding.subject), detail)
    counted = f"{facts['ok']} checks fine, {facts['warning']} to look at, {facts['wrong']} wrong"
    verdict = Text(counted, style="green" if facts["healthy"] else "bold red")
    return Group(*(Text(f"repaired: {it}", style="green") for it in facts["repaired"]), table, verdict)


def _summed_up(findings: list[Finding]) -> list[Finding]:
    """Put shards with the same good result into one line."""
    from shardpool.cli.checks.finding import Finding

    lines: list[Finding] = []
    for it in findings:
        same = [at for at, other in enumerate(lines) if (other.check, other.state) == (it.check, it.state)]
        if it.state != "ok" or not same:
            lines.append(it)
            continue
        other = lines[same[0]]
        detail = it.detail if it.detail == other.detail else "each as it should be"
        lines[same[0]] = Finding(it.check, f"{other.subject}, {it.subject}", "ok", detail)
    return lines
