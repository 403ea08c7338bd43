"""``job``: long work over a whole keyspace, by a spec, exactly once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardpool.cli.job_pictures import (
    closed_picture,
    plan_picture,
    result_picture,
    status_picture,
    undone_picture,
    wanted_picture,
)
from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from shardpool.cli.output import show

if TYPE_CHECKING:
    from shardpool.jobs import JobRecord, JobResult

app = typer.Typer(no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The job's name.")]
SpecArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The job's spec: a TOML file.")]


@app.callback()
def _noun() -> None:
    """Run jobs over a keyspace (import, anonymise, etl, replicate, export); see, pause, resume and cancel them."""


@app.command()
def run(
    spec: SpecArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, with a sample; write nothing.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Run a job to its end. Interrupted, by whatever, it can be resumed: each row is written once."""
    from shardpool.cli.working import watched_job
    from shardpool.jobs import plan_job, run_job
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        if dry_run:
            show(plan_job(router, spec), as_json, plan_picture)
            return
        with watched_job(quiet=as_json) as progress:
            result = run_job(router, spec, progress=progress)
    show(_result_facts(result), as_json, result_picture)


@app.command()
def resume(
    spec: Annotated[str, typer.Argument(metavar="NAME|FILE", help="The job's name, or its spec.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Go on with a job that was interrupted, paused, or failed."""
    from shardpool.cli.working import watched_job
    from shardpool.jobs import resume_job
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router, watched_job(quiet=as_json) as progress:
        result = resume_job(router, spec, progress=progress)
    show(_result_facts(result), as_json, result_picture)


@app.command("status")
def status_command(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show the latest job of each name, and how far it is."""
    from shardpool.jobs import job_status
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        facts = {"jobs": [_record_facts(it) for it in job_status(router)]}
    show(facts, as_json, status_picture)


@app.command()
def pause(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Let a job stop after the chunks that are under way; resume goes on."""
    from shardpool.jobs import pause_job
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        pause_job(router, name)
    show({"job": name, "wanted": "pause"}, as_json, wanted_picture)


@app.command()
def cancel(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """End an unfinished job for good. What it has written stays."""
    from shardpool.jobs import cancel_job
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        cancel_job(router, name)
    show({"job": name, "wanted": "cancel"}, as_json, wanted_picture)


@app.command()
def undo(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Go back to before a finished import: the old tables open again, with what was written since (run.way_back)."""
    from shardpool.jobs import undo_job
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        facts = {"job": name, "wanted": "undo", **undo_job(router, name)}
    show(facts, as_json, undone_picture)


@app.command()
def close(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Give up the way back of a finished import (run.way_back): what is written is not noted any more."""
    from shardpool.jobs import close_job
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        close_job(router, name)
    show({"job": name, "wanted": "close"}, as_json, closed_picture)


# -- facts ----------------------------------------------------------------------------------------------------------


def _result_facts(result: JobResult) -> dict[str, Any]:
    return {"job": result.progress.name, **result.progress.to_json(), "checks": dict(result.checks)}


def _record_facts(record: JobRecord) -> dict[str, Any]:
    return {
        "job": record.name,
        "kind": record.kind,
        "state": record.shown_state,
        "wanted": record.wanted,
        "started": record.started,
        "silent_seconds": round(record.silent, 1),
        "error": record.error,
        "progress": dict(record.progress),
    }
