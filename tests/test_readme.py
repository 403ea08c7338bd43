"""What the README shows is executed: its Python, its cluster.toml, and the commands that it names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shardpool.cli.app import app
from shardpool.config import parse_config
from shardpool.jobs.spec import read_spec

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("source", blocks("python"), ids=lambda source: source.splitlines()[0][:40])
def test_python(source: str) -> None:
    exec(compile(source, "README.md", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("source", blocks("toml"), ids=lambda source: source.splitlines()[0][:40])
def test_configuration(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in re.findall(r'password_env = "(.*?)"', source):
        monkeypatch.setenv(name, "a password")
    document = tomllib.loads(source)
    if "job" in document:
        assert read_spec(document).name
    else:
        assert parse_config(document).tables


def commands() -> list[str]:
    found = set()
    for block in blocks("console"):
        found.update(re.findall(r"shardpool ((?:[a-z]+ ?)+)", block))
    return sorted(command.strip() for command in found)


@pytest.mark.parametrize("command", commands())
def test_commands_exist(command: str) -> None:
    words = command.split()
    runner = CliRunner()
    for length in range(len(words), 0, -1):
        if runner.invoke(app, [*words[:length], "--help"]).exit_code == 0:
            return
    raise AssertionError(f"no command shardpool {command}")


def test_there_is_something_to_test() -> None:
    assert blocks("python")
    assert blocks("toml")
    assert commands()
