"""Pictures of plans: the rungs of the ladder, what each shard does, and how the result is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from shardpool.planner.plan import (
    APPENDED_ROWS,
    SCHEMA_MARKER,
    ByShard,
    Computed,
    GatherPlan,
    MergeQuery,
    Plan,
    PushdownPlan,
    ReferencePlan,
    Relation,
    SinglePlan,
    Stage,
    StagesPlan,
    rung_of,
)

if TYPE_CHECKING:
    from shardpool.executor.explain import Explanation, WriteExplanation
    from shardpool.executor.trace import Trace
    from shardpool.topology.shard_map import Partition, Topology

#: Partitions that are listed one by one; of more only the number is told.
LISTED = 8


def explanation_picture(explanation: Explanation | WriteExplanation, topology: Topology) -> RenderableType:
    """Draw how a statement is carried out."""
    from shardpool.executor.explain import Explanation

    if isinstance(explanation, Explanation):
        return _plan_picture(explanation, topology)
    return _write_picture(explanation, topology)


def _write_picture(explanation: WriteExplanation, topology: Topology) -> RenderableType:
    parts: list[RenderableType] = [
        Text.assemble(("✗ ", "red"), reason.rung, "  ", (reason.text, "dim")) for reason in explanation.reasons
    ]
    parts.append(Text(f"✓ {explanation.rung}", style="green"))
    if explanation.steps:
        parts.append(_sql(explanation.steps[0].sql))
        by_shard: dict[str, tuple[Partition, ...]] = {}
        for step in explanation.steps:
            own = (step.placement.partition,) if step.placement is not None else ()
            by_shard[step.shard] = (*by_shard.get(step.shard, ()), *own)
        parts.append(_shards(by_shard))
    if explanation.find is not None:
        parts += [Text("its rows are found by", style="bold"), _plan_picture(explanation.find, topology)]
        parts.append(Text("and written where they belong, if they are still the same", style="bold"))
    title = f"[bold]write: {explanation.rung}[/bold]"
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, padding=(1, 2))


def _plan_picture(explanation: Explanation, topology: Topology) -> RenderableType:
    """Draw a plan."""
    plan = explanation.plan
    parts = [_ladder(plan), Text(""), *_steps(plan, topology)]
    if explanation.trace is not None:
        parts += [Text(""), _measured(explanation.trace)]
    title = f"[bold]{_headline(plan)}[/bold]"
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, padding=(1, 2))


def _headline(plan: Plan) -> str:
    match plan:
        case SinglePlan(empty=True):
            return "single: a contradiction; any partition tells the columns once, then no shard is asked"
        case SinglePlan():
            return f"single: partition {plan.placement.partition.id} on {plan.placement.shard} answers alone"
        case ReferencePlan():
            return "reference: any shard can answer"
        case PushdownPlan():
            merged = "one server combines them" if isinstance(plan.merge, MergeQuery) else "their rows are the result"
            return f"{rung_of(plan)}: every partition computes its part, {merged}"
        case StagesPlan():
            return "stages: temporary tables first, then what reads them"
        case GatherPlan():
            return f"{rung_of(plan)}: the needed rows are collected on one server, the statement runs there"


def _measured(trace: Trace) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("step")
    for heading in ("rows", "bytes moved", "ms"):
        table.add_column(heading, justify="right")
    for step in trace.steps:
        table.add_row(Text(step.name), f"{step.rows:,}", f"{step.bytes:,}", f"{step.milliseconds:.1f}")
    table.add_row(Text("in all", style="bold"), f"{trace.rows:,}", "", f"{trace.milliseconds:.1f}")
    return table


def _ladder(plan: Plan) -> Table:
    """The cheaper ways, each with the reason against it, and the one that was taken."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for reason in plan.reasons:
        table.add_row(f"[red]✗[/red] {reason.rung}", Text(reason.text, style="dim"))
    table.add_row(f"[green]✓ {rung_of(plan)}[/green]", "")
    return table


def _steps(plan: Plan, topology: Topology) -> Iterator[RenderableType]:
    match plan:
        case SinglePlan():
            yield _sql(plan.sql)
        case ReferencePlan():
            yield _sql(plan.sql)
        case PushdownPlan():
            yield Text("on every shard" if plan.appended else "in every partition", style="bold")
            yield _sql(_in_any(plan.partial, topology, plan.appended))
            yield _shards(plan.by_shard)
            if isinstance(plan.merge, MergeQuery):
                yield Text("\ncombined by", style="bold")
                yield _sql(plan.merge.sql)
        case StagesPlan():
            for stage in plan.stages:
                yield from _stage(stage, topology)
            yield Text("then, over these", style="bold")
            yield from [_sql(plan.then.sql)] if isinstance(plan.then, MergeQuery) else _steps(plan.then, topology)
        case GatherPlan():
            for relation in plan.relations:
                yield from _stage(relation, topology)
            yield Text("then, over these", style="bold")
            yield _sql(plan.sql)


def _stage(stage: Stage, topology: Topology) -> Iterator[RenderableType]:
    where = ", copied to all shards" if stage.spread else ""
    match stage:
        case Relation():
            if stage.divided_by:
                where = f", divided among all shards by {stage.divided_by}"
            columns = ", ".join(column.name for column in stage.columns) or "rows only"
            yield Text.assemble(("gather ", "bold"), (stage.table, "bold cyan"), f" ({columns}){where}")
        case _:
            what = "compute " if isinstance(stage, Computed) else "collect "
            yield Text.assemble((what, "bold"), (stage.name, "bold cyan"), where)
    if isinstance(stage, Computed):
        yield _sql(stage.sql)
    else:
        yield _sql(_in_any(stage.select, topology, stage.appended))
        yield _shards(stage.by_shard)
    yield Text("")


def _shards(by_shard: ByShard) -> Table:
    table = Table.grid(padding=(0, 2))
    for shard, partitions in by_shard.items():
        many = len(partitions) > LISTED
        listed = "" if many else "  " + " ".join(f"p{it.id:04}" for it in partitions)
        count = f"{len(partitions)} partition{'s' * (len(partitions) != 1)}"
        table.add_row("  ", Text(shard, style="cyan"), Text(count + listed, style="dim"))
    return table


def _in_any(sql: str, topology: Topology, appended: str = "") -> str:
    """Return a partition's statement with ``shop_p*`` for its schema."""
    return sql.replace(APPENDED_ROWS, f"({appended})").replace(SCHEMA_MARKER, f"{topology.keyspace}_p*")


def statement(text: str) -> RenderableType:
    """Draw SQL in colours, on the terminal's own background."""
    syntax = Syntax(text.strip(), "postgresql", theme="ansi_dark", word_wrap=True, background_color="default")
    return Padding(syntax, (0, 0, 0, 2))


def _sql(text: str) -> RenderableType:
    # What goes to the driver has doubled percent signs.
    return statement(text.replace("%%", "%"))
