"""Fixtures for tests of the embedded cluster."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """An empty directory that every user can enter, unlike `tmp_path`."""
    path = Path(tempfile.mkdtemp(prefix="test-shardpool-", dir="/tmp")).resolve()
    path.chmod(0o777)
    yield path
    shutil.rmtree(path, ignore_errors=True)
