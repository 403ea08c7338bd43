"""Who makes a column unique is killed at each step: the same call goes on with it, or it is given up as a whole."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shardpool import Config, Router, faults
from shardpool.errors import MoveInProgress
from shardpool.moves import move_partition, recover_moves
from shardpool.moves.steps import STEPS
from shardpool.moves.unique import add_unique, drop_unique
from tests.moves.conftest import shop_config
from tests.moves.unique_tools import Writer, agrees, emails, make_table, state_of
from tests.support.backends import databases
from tests.support.waiting import eventually

NOTHING = {"unique": {}, "building": {}, "builds": []}
RENUMBERING = [f"move:{step.name}:{when}" for step in STEPS["rename"] for when in ("before", "after")]
COMMITTING = ["tx:prepared-one", "tx:decided", "tx:committed-one"]
MAKING = ["created", "begun", "fenced-one", "fenced", "filled-one", "filled", "proven"]
POINTS = [*(f"unique:{it}" for it in MAKING), *RENUMBERING, "move:flip:inside", *COMMITTING]
#: In the default run.
GONE_ON_WITH, GIVEN_UP = {"unique:begun", "move:switch_on:before"}, {"move:fence:after"}
BY_HAND = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(server_urls: list[str]) -> Iterator[Router]:
    with databases(server_urls[:2]) as urls:
        config = shop_config(urls, partitions=3)
        Router.initialise(config)
        with Router(config, listen=False) as router:
            make_table(router, "users")
            yield router


def _work(config: Config, point: str, work: Callable[..., Any]) -> None:
    faults.armed = f"{point}:kill9"
    with Router(config, listen=False) as router:
        work(router, "users", "email")


def killed(config: Config, point: str, work: Callable[..., Any] = add_unique) -> None:
    """Begin it in a process of its own, which dies at *point*."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_work, args=(config, point, work), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, f"exit code {process.exitcode}"


def patiently(work: Callable[..., Any], router: Router) -> Any:
    """A server needs a moment to see that a process is gone."""
    found: list[Any] = []

    def done() -> bool:
        try:
            found.append(work(router, "users", "email"))
        except MoveInProgress:
            return False
        return True

    eventually(done, "the process is gone")
    return found[0]


def beside(router: Router, work: Callable[[], Any]) -> None:
    """Do *work* beside writers, of a router that listens and one that does not, none of whom gets an error."""
    router.query("DELETE FROM users WHERE id < 100000")
    with Router(router.config) as listening, Router(router.config, listen=False) as deaf:
        writers = [Writer(it, "users", number, seed=7) for number, it in enumerate((listening, deaf))]
        for writer in writers:
            writer.start()
        try:
            work()
        finally:
            expected = {key: email for writer in writers for key, email in writer.end().items()}
    router.refresh()
    assert emails(router, "users") == expected


def clean(router: Router) -> None:
    """Nothing is under way, and partitions can move again."""
    router.refresh()
    with router.catalog.begin() as connection:
        assert connection.exec_driver_sql("SELECT * FROM shardpool_catalog.move WHERE state = 'running'").all() == []
        assert connection.exec_driver_sql("SELECT * FROM shardpool_catalog.cleanup").all() == []
    assert not any(it.moving for it in router.shard_map.placements)
    router.resolve_transactions(0.0)
    assert router.transactions_in_doubt() == []
    first = router.shard_map.placements[0]
    move_partition(router, first.partition.id, next(it for it in router.shard_map.shards if it != first.shard))


def matrix(points: list[str], default: set[str]) -> list[Any]:
    return [pytest.param(it, marks=() if it in default else BY_HAND) for it in points]


@pytest.mark.parametrize("point", matrix(POINTS, GONE_ON_WITH))
def test_killed_and_gone_on_with(shop: Router, point: str) -> None:
    def work() -> None:
        killed(shop.config, point)
        patiently(add_unique, shop)

    beside(shop, work)
    assert state_of(shop, "users") == {"unique": {"email": "users_email"}, "building": {}, "builds": []}
    assert agrees(shop, "users", "users_email") == []
    assert shop.find_key("users", email="still 7") == 100_007
    clean(shop)
    drop_unique(shop, "users", "email")
    assert state_of(shop, "users") == NOTHING


@pytest.mark.parametrize("point", matrix(POINTS[1:], GIVEN_UP))
def test_killed_and_given_up(shop: Router, point: str) -> None:
    def work() -> None:
        killed(shop.config, point)
        patiently(drop_unique, shop)

    beside(shop, work)
    assert state_of(shop, "users") == NOTHING and "users_email" not in shop.topology.tables
    clean(shop)


@pytest.mark.parametrize("again", [add_unique, pytest.param(drop_unique, marks=BY_HAND)])
@pytest.mark.parametrize("point", ["unique:dropped", pytest.param("unique:dropping", marks=BY_HAND)])
def test_killed_while_it_is_given_up(shop: Router, point: str, again: Callable[..., Any]) -> None:
    """Also what was given up half way is given up, before it is begun anew."""

    def work() -> None:
        killed(shop.config, "unique:filled-one")
        eventually(lambda: not recover_moves(shop), "the process is gone")
        patiently_killed(shop, point)
        patiently(again, shop)

    beside(shop, work)
    if again is add_unique:
        assert agrees(shop, "users", "users_email") == []
        drop_unique(shop, "users", "email")
    assert state_of(shop, "users") == NOTHING and "users_email" not in shop.topology.tables
    clean(shop)


def patiently_killed(router: Router, point: str) -> None:
    def done() -> bool:
        try:
            killed(router.config, point, drop_unique)
        except AssertionError:
            return False  # it was refused, because the one before it was not gone
        return True

    eventually(done, "one that is killed while it gives up")
