"""The shard map as a picture: one line per shard, one coloured cell per partition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from shardpool.cli.values import size

if TYPE_CHECKING:
    from rich.console import RenderableType

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red", "bright_cyan", "bright_magenta")
BAR_WIDTH = 24
#: Up to so many partitions have cells of their own; beyond, only their number is shown.
CELLS = 128
CELLS_PER_LINE = 16


def colour_of(shard: str, shards: Sequence[str]) -> str:
    """Return the shard's colour: the same in every picture, as long as shards are only added."""
    return COLOURS[natural_order(shards).index(shard) % len(COLOURS)]


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names so that s2 comes before s10."""
    return sorted(names, key=lambda name: (len(name), name))


def shard_map_picture(
    shards: Sequence[Mapping[str, Any]], homes: Mapping[int, str] | None = None, largest: int = 0
) -> RenderableType:
    """Draw shards with their partitions and sizes, as `status` knows them.

    *homes* (partition -> shard) gives a partition that came from elsewhere the colour of its old home; *largest* is the
    size in bytes that fills the bar, if no shard is larger.
    """
    names = [shard["name"] for shard in shards]
    total = sum(len(shard["partitions"]) for shard in shards)
    largest = max([largest, *(shard["bytes"] or 0 for shard in shards)])
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=total > CELLS)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for shard in shards:
        colour = colour_of(shard["name"], names)
        count = len(shard["partitions"])
        cells = _cells(shard, names, homes or {}) if total <= CELLS else Text(f"{count} partitions")
        table.add_row(
            Text(f"{shard['name']}", style=f"bold {colour}"),
            cells,
            Text(f"{count} of {total}", style="dim"),
            bar(shard["name"], names, shard["bytes"], largest),
        )
    return table


def _cells(shard: Mapping[str, Any], names: Sequence[str], homes: Mapping[int, str]) -> Text:
    text = Text()
    for index, partition in enumerate(shard["partitions"]):
        if index and index % CELLS_PER_LINE == 0:
            text.append("\n")
        home = homes.get(partition["id"], shard["name"])
        # A partition from elsewhere is marked in words too: colours are lost in a pipe.
        came = ">" if home != shard["name"] else " "
        text.append(f"{came}{partition['id']:02} ", style=f"black on {colour_of(home, names)}")
        text.append(" ")
    if not shard["partitions"]:
        text.append("empty", style="dim")
    return text


def bar(shard: str, shards: Sequence[str], amount: int | None, largest: int) -> Text:
    """Return bytes as a bar in the shard's colour; *largest* has the full width."""
    if amount is None:
        return Text("unreachable", style="red")
    width = round(amount / largest * BAR_WIDTH) if largest else 0
    return Text.assemble(("█" * width, colour_of(shard, shards)), (" " if width else ""), (size(amount), "dim"))
