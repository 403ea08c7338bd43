"""``query`` and ``explain``: one statement, over all shards or on the partition of a key."""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardpool.cli.options import DEFAULT_CONFIG, ConfigOption, FileOption, JsonOption, ParamOption
from shardpool.cli.output import show, stdout
from shardpool.cli.values import cell, duration, parse_value

if TYPE_CHECKING:
    from rich.table import Table


#: Rows that the table on the screen shows at most; JSON and CSV have all.
SHOWN_ROWS = 200

SqlArgument = Annotated[
    str | None, typer.Argument(metavar="SQL", help="The statement, with :name parameters. - reads it from stdin.")
]


def query(
    sql: SqlArgument = None,
    param: ParamOption = None,
    file: FileOption = None,
    key: Annotated[
        str | None, typer.Option("--key", "-k", help="Run it on the one partition of this key; also a write.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Answer a SELECT over all shards as one PostgreSQL would.

    Example: shardpool query "select * from orders where customer_id = :id" -p id=42
    """
    statement, params = read_statement(sql, file), read_params(param)
    from shardpool.cli.keys import read_key
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        route = "single" if key is not None else router.explain(statement, params).rung
        started = time.perf_counter()
        if key is None:
            result: Any = router.query(statement, params)
        else:
            result = router.execute(read_key(key, router.topology), statement, params)
        columns = list(result.keys()) if result.returns_rows else []
        rows = [list(row) for row in result] if result.returns_rows else []
        facts = {
            "columns": columns,
            "rows": rows,
            "row_count": len(rows) if result.returns_rows else result.rowcount,
            "route": route,
            "seconds": round(time.perf_counter() - started, 6),
        }
    if as_csv and not as_json:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([cell(value) for value in row] for row in rows)
    elif as_json:
        show(facts, True, result_table)
    else:
        # A table that goes to a pipe may be as wide as it likes.
        stdout(**({} if sys.stdout.isatty() else {"width": 10_000})).print(result_table(facts))
        stdout().print(_footer(facts), style="dim")


def explain(
    sql: SqlArgument = None,
    param: ParamOption = None,
    file: FileOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    analyze: Annotated[bool, typer.Option("--analyze", help="Run it, and show what each step took.")] = False,
) -> None:
    """Show how a statement would run: route, reasons, statements and merge query. Run it only with --analyze."""
    statement, params = read_statement(sql, file), read_params(param)
    from shardpool.cli.plans import explanation_picture
    from shardpool.router import Router

    with Router.from_file(config, listen=False) as router:
        explanation = router.explain(statement, params, analyze=analyze)
        show(explanation.to_json(), as_json, lambda _: explanation_picture(explanation, router.topology))


def result_table(facts: dict[str, Any]) -> Table | str:
    """Return the rows as a table: numbers to the right, NULL dimmed."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not facts["columns"]:
        return ""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, name in enumerate(facts["columns"]):
        numbers = any(_is_number(row[index]) for row in facts["rows"][:SHOWN_ROWS])
        table.add_column(Text(name), justify="right" if numbers else "left", overflow="fold")
    for row in facts["rows"][:SHOWN_ROWS]:
        table.add_row(*(Text("NULL", style="dim") if value is None else Text(cell(value)) for value in row))
    return table


def _footer(facts: dict[str, Any]) -> str:
    count = facts["row_count"]
    if not facts["columns"]:
        parts = [f"{count} row{'s' * (count != 1)} affected" if count >= 0 else "done"]
    elif count > SHOWN_ROWS:
        parts = [f"{SHOWN_ROWS} of {count:,} rows (--csv and --json have all)"]
    else:
        parts = [f"{count} row{'s' * (count != 1)}"]
    return " · ".join([*parts, facts["route"], duration(facts["seconds"])])


def _is_number(value: object) -> bool:
    from decimal import Decimal

    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def read_statement(sql: str | None, file: Path | None) -> str:
    """Return the statement that was given as an argument, in a file or on stdin."""
    if (sql is None) == (file is None):
        raise typer.BadParameter("give one statement: as an argument, with --file, or - for stdin")
    if file is not None:
        return read_text(file)
    return sys.stdin.read() if sql == "-" else str(sql)


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{path} is not in UTF-8: {error}") from error


def read_params(given: list[str] | None) -> dict[str, object]:
    """Read ``name=value`` pairs."""
    params = {}
    for item in given or ():
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"got --param {item!r}, expected NAME=VALUE")
        params[name] = parse_value(value)
    return params
