"""Tables as all commands draw them."""

from __future__ import annotations

from rich import box
from rich.table import Table


def new_table(*columns: str) -> Table:
    """Return a table with a line under its head; a column whose name ends with ``>`` is aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        table.add_column(name.removesuffix(">"), justify="right" if name.endswith(">") else "left")
    return table
