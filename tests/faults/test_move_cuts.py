"""Connections of a move that break at each of its commits, just before it arrives, or after it but before its answer.

The commits are counted in a move that is left alone; so a new one is covered the day it is added.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest

from shardpool.config import Endpoint
from shardpool.errors import CatalogUnavailable, MoveError, OutcomeUnknown, ShardUnavailable
from shardpool.moves import move_partition, move_status, recover_moves, runner
from shardpool.moves.record import Mode
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Place
from tests.support.backends import databases
from tests.support.cutting_proxy import CuttingProxy, When, proxies
from tests.support.waiting import eventually

COMMIT = r"^COMMIT"
PARTIES = ("source", "target", "catalog")


@dataclass
class Cut:
    """A place whose connections lead through proxies: one for each shard, and one for the catalog."""

    place: Place
    shards: dict[str, CuttingProxy]
    catalog: CuttingProxy

    def proxy(self, party: str) -> CuttingProxy:
        if party == "catalog":
            return self.catalog
        return self.shards[self.place.owner(0) if party == "source" else self.place.other(0)]


@pytest.fixture(scope="module")
def cut(server_urls: list[str]) -> Iterator[Cut]:
    with databases(server_urls[:2]) as urls, proxies([*urls, urls[0]]) as found:
        config = shop_config([it.url for it in found[:2]])
        place = Place(replace(config, catalog=Endpoint(found[2].url)))
        try:
            place.fill(customers=20)
            yield Cut(place, {"s0": found[0], "s1": found[1]}, found[2])
        finally:
            place.close()


def count_commits(cut: Cut, party: str, mode: Mode) -> int:
    """Return how often a whole move commits there."""
    proxy = cut.proxy(party)
    proxy.watch(COMMIT)
    move_partition(cut.place.router, 0, cut.place.other(0), mode=mode)
    return proxy.matched


def run_cut(cut: Cut, party: str, mode: Mode, number: int, when: When) -> bool:
    """Cut the *number*-th commit of a move, recover, and check. Return whether the move had so many."""
    place = cut.place
    source, target, before = place.owner(0), place.other(0), place.contents()
    proxy = cut.proxy(party)
    proxy.cut(COMMIT, number, when)
    with suppress(ShardUnavailable, CatalogUnavailable, OutcomeUnknown, MoveError):
        move_partition(place.router, 0, target, mode=mode)
    has_cut = proxy.has_cut
    proxy.watch(COMMIT)

    def settled() -> bool:
        with suppress(CatalogUnavailable):
            found = recover_moves(place.router)
            assert all(it.outcome != "unsettled" for it in found), found
            return not move_status(place.router)
        return False

    eventually(settled, "all moves are settled")
    assert place.owner(0) in (source, target)
    assert place.contents() == before
    place.assert_clean()
    return has_cut


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "HEARTBEAT", 60.0)  # whose commits are not counted


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("party", PARTIES)
def test_some_cuts(cut: Cut, party: str, when: When) -> None:
    """A slice of the next."""
    count = count_commits(cut, party, "trigger")
    assert count > 4
    for number in random.Random(f"{party} {when}").sample(range(1, count + 1), 3):
        print(f"{party}: commit {number} of {count}, cut {when}")
        assert run_cut(cut, party, "trigger", number, when) or number == count


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("party", PARTIES)
@pytest.mark.parametrize("mode", ["block", "trigger", "logical"])
def test_every_cut(cut: Cut, mode: Mode, party: str, when: When) -> None:
    """Until a move has no more commits: how often it looks for changes depends on how quick the servers are."""
    for number in itertools.count(1):
        print(f"{party}: commit {number}, cut {when}")
        if not run_cut(cut, party, mode, number, when):
            break
    assert number > 4
