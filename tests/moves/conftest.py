"""Fixtures for tests of moves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool import Config, parse_config
from tests.moves.move_tools import Gates, Place
from tests.support.backends import databases


def shop_config(urls: list[str], partitions: int = 4) -> Config:
    return parse_config(
        {
            "keyspace": "shop",
            "moves": {"share": 1},  # also in movers' processes: no rest beside the tests' writers
            "partitions": partitions,
            "catalog": urls[0],
            "shards": {f"s{number}": {"url": url} for number, url in enumerate(urls)},
        },
        source="test",
    )


@pytest.fixture(scope="module")
def place(server_urls: list[str]) -> Iterator[Place]:
    """Two shards with four partitions that are full of rows."""
    with databases(server_urls[:2]) as urls:
        place = Place(shop_config(urls))
        try:
            place.fill()
            yield place
        finally:
            place.close()


@pytest.fixture(params=["block", "trigger", pytest.param("logical", marks=pytest.mark.slow)])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The mode that moves take."""
    return take_mode(request, monkeypatch)


def take_mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have moves take the mode of the fixture's parameter."""
    monkeypatch.setattr("shardpool.moves.partition.choose_mode", lambda *_: (request.param, "test"))
    return str(request.param)


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gates]:
    gates = Gates(monkeypatch)
    yield gates
    gates.open_all()
