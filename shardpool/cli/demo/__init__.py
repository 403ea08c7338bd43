"""``shardpool demo``: the main job on real servers in under a minute, checked against one plain PostgreSQL.

`scenario` is the tuple of steps. A step does something and returns facts; `pictures` draws them, or ``--json`` prints
them all. `data` has the TPC-H tables and files, `plain` the one PostgreSQL to compare with, `writer` the traffic during
the rebalance, `answers` the comparison.
"""

from __future__ import annotations

from typing import Annotated

import typer

from shardpool.cli.options import JsonOption

FAILED = 1
INTERRUPTED = 130


def demo(
    scale: Annotated[
        float, typer.Option("--scale", min=0.001, max=1, help="TPC-H scale factor: 0.01 is 86,000 rows, 10 MB.")
    ] = 0.01,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the cluster running afterwards, until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start three shards, load TPC-H, query it, add a shard and rebalance under writes: all checked, in a minute."""
    from shardpool.cli.demo.scenario import run_demo

    facts = run_demo(scale, keep=keep, as_json=as_json)
    if keep:
        raise typer.Exit(INTERRUPTED)
    if not facts["ok"]:
        raise typer.Exit(FAILED)
