"""Running the command line, in this process or as a program of its own."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardpool.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
SHOP_SQL = REPOSITORY / "schemas" / "shop.sql"

SHOP_TABLES = """
[tables]
customers = { key = "customer_id" }
orders = { key = "customer_id" }
order_items = { key = "customer_id" }
country = { reference = true }
"""


@dataclass(frozen=True)
class Run:
    """What a command printed and returned."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)


def run(*arguments: object, config: Path | None = None) -> Run:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*map(str, arguments), *(["--config", str(config)] if config else [])])
    return Run(code, out.getvalue(), err.getvalue())


def program(*arguments: object, stdin: str = "", timeout: float = 60) -> Run:
    """Run a command as a process."""
    command = [sys.executable, "-m", "shardpool", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    return Run(done.returncode, done.stdout, done.stderr)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
