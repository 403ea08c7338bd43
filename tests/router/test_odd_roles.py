"""Roles and databases whose settings change what a statement means."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool import Router, Sharded
from tests.moves.conftest import shop_config
from tests.support.managed import managed_databases

SETTINGS = {"standard_conforming_strings": "off", "transform_null_equals": "on", "escape_string_warning": "off"}


@pytest.fixture(scope="module")
def router(server_urls: list[str]) -> Iterator[Router]:
    with managed_databases(server_urls, SETTINGS) as urls:
        config = shop_config(urls, partitions=8)
        Router.initialise(config)
        with Router(config, listen=False) as found:
            found.create_schema("CREATE TABLE files (path text PRIMARY KEY, n int)", {"files": Sharded("path")})
            yield found


def test_a_backslash_is_a_backslash(router: Router) -> None:
    """To the planner it is one; a server that takes it for an escape would keep the row under another key."""
    for number in range(20):
        router.query(rf"INSERT INTO files VALUES ('c:\new\{number}', {number})")
    for number in range(20):
        path = rf"c:\new\{number}"
        assert router.execute(path, "SELECT n FROM files WHERE path = :path", {"path": path}).scalar_one() == number
        assert router.query(rf"SELECT path FROM files WHERE path = 'c:\new\{number}'").scalar_one() == path


def test_nothing_equals_null(router: Router) -> None:
    router.query("INSERT INTO files VALUES ('nothing', NULL)")
    assert router.query("SELECT count(*) FROM files WHERE n = NULL").scalar_one() == 0
