"""The help, the version, wrong usage, and that none of them waits for a database driver."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shardpool import __version__
from tests.cli.cli_tools import REPOSITORY, program, run

COMMANDS = (
    ("demo",),
    ("up",),
    ("init",),
    ("status",),
    ("query",),
    ("explain",),
    ("schema", "apply"),
    ("load",),
    ("unique", "add"),
    ("unique", "drop"),
    ("shard", "add"),
    ("shard", "drain"),
    ("shard", "register"),
    ("shard", "remove"),
    ("rebalance",),
    ("move", "start"),
    ("move", "status"),
    ("move", "recover"),
    ("partition", "split"),
    ("partition", "merge"),
    ("partition", "pin"),
    ("partition", "unpin"),
    ("transactions", "list"),
    ("transactions", "resolve"),
    ("job", "run"),
    ("job", "resume"),
    ("job", "status"),
    ("job", "pause"),
    ("job", "cancel"),
    ("job", "undo"),
    ("doctor",),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_json(command: tuple[str, ...]) -> None:
    found = run(*command, "--help")
    assert found.code == 0
    assert "--json" in found.out


def test_the_help_lists_commands_and_exit_codes() -> None:
    found = run("--help")
    assert found.code == 0
    assert all(command[0] in found.out for command in COMMANDS)
    for code in ("0 ", "1 ", "2 ", "3 ", "130 "):
        assert f" {code}" in found.out


def test_brackets_in_a_help_are_text() -> None:
    assert "declared in [tables] of the configuration" in " ".join(run("schema", "apply", "--help").out.split())


def test_no_arguments_show_the_help() -> None:
    found = run()
    assert found.code == 2
    assert "Usage" in found.out
    assert "error" not in found.err


def test_the_version() -> None:
    assert program("--version").out == f"shardpool {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("status", "--nonsense"),
        ("query",),
        ("query", "select 1", "--file", "/nonexistent.sql"),
        ("query", "select :a", "-p", "a"),
        ("load", "orders"),
        ("load", "orders", "/nonexistent.csv"),
        ("schema", "apply", "/nonexistent.sql"),
        ("rebalance",),
        ("rebalance", "--plan", "--apply"),
        ("rebalance", "--plan", "--by", "colour"),
        ("move", "start", "one", "s1"),
        ("up", "--shards", "0"),
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    found = run(*arguments)
    assert found.code == 2
    assert found.out == ""
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1


def test_wrong_usage_as_json() -> None:
    found = run("status", "--nonsense", "--json")
    assert found.code == 2
    assert found.json["error"]["type"] == "UsageError"
    assert found.json["error"]["retryable"] is False
    assert found.err == ""


def test_the_help_imports_no_driver() -> None:
    """Apart from what `shardpool` itself imports: the package is replaced by an empty one with the same modules."""
    script = (
        "import sys, types\n"
        "package = types.ModuleType('shardpool')\n"
        f"package.__path__ = [{str(REPOSITORY / 'shardpool')!r}]\n"
        "sys.modules['shardpool'] = package\n"
        "from shardpool.cli import main\n"
        "main(['--help'])\n"
        "slow = {'sqlalchemy', 'psycopg2', 'postgast', 'jsonschema', 'shardpool.router'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
