"""Imports go one way: errors <- config <- topology <- {planner | catalog | engines} <- two_phase <- ... <- cli."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "shardpool"

#: Each layer may import itself and the layers below. Layers on one line do not know each other.
LAYERS: list[set[str]] = [
    {"errors", "faults", "caretakers"},
    {"config", "topology"},
    {"planner", "catalog", "engines"},
    {"two_phase"},
    {"executor", "ddl", "bulk"},
    {"provision"},
    {"router"},
    {"moves"},
    {"jobs"},
    {"local"},
    {"cli"},
    {"__init__", "__main__"},
]
#: config uses topology's names and tables.
SAME_LAYER = {("config", "topology")}
#: The embedded cluster builds a router for its user; moves are given one.
TYPE_ONLY_OR_LAZY = {("local", "router")}

RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        found.update(name.split(".")[1] for name in names if name.startswith("shardpool."))
    return found


def violations(path: Path) -> list[str]:
    mine = module_of(path)
    found = []
    for other in imported(path):
        if other == mine or (mine, other) in SAME_LAYER:
            continue
        if RANK[other] >= RANK[mine]:
            found.append(f"{path.relative_to(PACKAGE)} imports {other}")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    assert not violations(path)


def test_planner_and_topology_open_nothing() -> None:
    for folder in ("planner", "topology"):
        for path in (PACKAGE / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "import sqlalchemy" not in text, path
            assert "from sqlalchemy" not in text, path
            assert "psycopg2" not in "".join(line for line in text.splitlines() if "import" in line), path


def test_the_check_sees_a_wrong_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "planner").mkdir()
    wrong = tmp_path / "planner" / "wrong.py"
    wrong.write_text("from shardpool.router import Router\n", encoding="utf-8")
    assert violations(wrong)
