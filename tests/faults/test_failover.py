"""A shard whose primary is killed, and whose standby takes its place behind the same endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import pytest
from sqlalchemy.engine import make_url

from shardpool import Router, Sharded, parse_config
from shardpool.config import Endpoint
from shardpool.errors import ConfigError, ShardUnavailable
from shardpool.local import LocalCluster
from shardpool.moves import move_partition, recover_moves
from shardpool.moves.record import Mode
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Background, Gates, Place
from tests.support.backends import plain_connection
from tests.support.managed import managed_databases
from tests.support.proxy import Proxy
from tests.support.standby import Standby, standby_of
from tests.support.waiting import eventually

KEYS = range(400)


@dataclass
class Pair:
    """Two shards; that on the server `s1` has a standby, and is reached by way of `endpoint`."""

    cluster: LocalCluster
    place: Place
    endpoint: Proxy
    standby: Standby

    def fail_over(self) -> None:
        """Kill the primary; its standby takes its place."""
        self.cluster.kill("s1")
        self.standby.promote()
        self.endpoint.lead_to("127.0.0.1", self.standby.port)

    def total(self) -> int:
        return int(self.place.router.query("SELECT sum(n) FROM lines").scalar_one())


@contextmanager
def pair(name: str = "s1") -> Iterator[Pair]:
    """A shard *name* with a synchronous standby beside another one, which has the catalog."""
    with ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(shards=2))
        standby = stack.enter_context(standby_of(cluster.server("s1"), synchronous=True))
        endpoint = stack.enter_context(Proxy("127.0.0.1", cluster.server("s1").port))
        url = make_url(cluster.url("s1")).set(port=endpoint.port).render_as_string(hide_password=False)
        document = {
            "keyspace": "shop",
            "partitions": 4,
            "catalog": cluster.url("s0"),
            "shards": {"s0": {"url": cluster.url("s0")}, name: {"url": url}},
            "moves": {"share": 1},
        }
        place = Place(parse_config(document, source="test"))
        stack.callback(place.close)
        place.router.create_schema("CREATE TABLE lines (key bigint PRIMARY KEY, n int)", {"lines": Sharded("key")})
        place.router.copy_into("lines", [(key, 0) for key in KEYS])
        yield Pair(cluster, place, endpoint, standby)


def write_all(router: Router) -> None:
    """Write on all shards, in one transaction."""
    router.query("UPDATE lines SET n = n + 1")


@pytest.fixture(scope="module")
def before() -> Iterator[Pair]:
    """A pair of which one test, the last, makes use of the standby."""
    with pair() as found:
        yield found


def test_a_limit_that_cannot_be_watched_is_refused(before: Pair) -> None:
    """The lag of replicas, by a role that may not see it, would be taken for none."""
    cluster = before.cluster
    with managed_databases([cluster.url(name) for name in cluster.names]) as urls:
        own = Place(shop_config(urls))
        try:
            own.router.create_schema("CREATE TABLE lines (key bigint PRIMARY KEY)", {"lines": Sharded("key")})
            limited = replace(own.config, moves=replace(own.config.moves, max_lag=1.0))
            with Router(limited, listen=False) as router, pytest.raises(ConfigError, match="GRANT pg_read_all_stats"):
                move_partition(router, 0, own.other(0))
            own.assert_clean()
            move_partition(own.router, 0, own.other(0))
        finally:
            own.close()


def test_after_a_failover_everything_goes_on(before: Pair) -> None:
    """By an endpoint that leads to the new primary, and by a URL that names both servers."""
    it, config = before, before.place.config
    hosts = "&".join(f"host=127.0.0.1:{port}" for port in (it.cluster.server("s1").port, it.standby.port))
    both = {**config.shards, "s1": Endpoint(f"postgresql+psycopg2://shardpool@/app?{hosts}")}
    with Router(replace(config, shards=both)) as router:
        write_all(router)
        with pytest.raises(ShardUnavailable, match="hot standby"):
            it.endpoint.lead_to("127.0.0.1", it.standby.port)
            it.total()
        it.fail_over()
        assert it.total() == len(KEYS)
        write_all(it.place.router)
        write_all(router)
        assert it.total() == 3 * len(KEYS)


def load(router: Router) -> None:
    """Add rows on all shards, as one load."""
    router.copy_into("lines", [(key + len(KEYS), 1) for key in KEYS])


@pytest.mark.parametrize(
    ("work", "level", "name", "statement"),
    [
        (write_all, "off", "s1", "PREPARE TRANSACTION"),
        pytest.param(write_all, "local", "s1", "PREPARE TRANSACTION", marks=pytest.mark.slow),
        (write_all, "local", "a1", "COMMIT"),  # the first shard decides
        (load, "off", "s1", "PREPARE TRANSACTION"),
    ],
)
def test_what_is_acknowledged_is_on_the_standby(
    work: Callable[[Router], None], level: str, name: str, statement: str
) -> None:
    """Whatever the role's default is: a failover would else lose one part of what is committed on other shards."""
    with pair(name) as it:
        with plain_connection(it.cluster.url("s1")) as connection:
            connection.cursor().execute(f"ALTER ROLE shardpool SET synchronous_commit = {level}")
        waits = f"SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%{statement}%'"
        with Router(it.place.config, listen=False) as router:
            with it.standby.frozen():
                writing = Background(lambda: work(router))
                eventually(lambda: writing.done or it.place.sql(name, waits), "it waits for the standby")
                assert not writing.done
            writing.wait()
            it.fail_over()
        assert it.total() == len(KEYS)


@pytest.mark.parametrize(
    "mode",
    ["trigger", pytest.param("logical", marks=pytest.mark.slow), pytest.param("block", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("away", [pytest.param(True, marks=pytest.mark.slow), False], ids=["source", "target"])
@pytest.mark.parametrize(
    "point",
    [
        pytest.param("move:copy:before", marks=pytest.mark.slow),
        pytest.param("move:copy:after", marks=pytest.mark.slow),
        pytest.param("move:lock:after", marks=pytest.mark.slow),
        pytest.param("move:fence:after", marks=pytest.mark.slow),
        "move:flip:after",
        pytest.param("move:release:before", marks=pytest.mark.slow),
    ],
)
def test_a_failover_during_a_move(monkeypatch: pytest.MonkeyPatch, mode: Mode, away: bool, point: str) -> None:
    """Of its source, or its target: one owner with all rows, nothing left over, and the move can be made again."""
    with pair() as it:
        place = it.place
        write_all(place.router)
        partition = next(number for number in range(4) if (place.owner(number) == "s1") == away)
        source, target = place.owner(partition), place.other(partition)
        gates = Gates(monkeypatch)
        gates.close(point)
        moving = Background(lambda: move_partition(place.router, partition, target, mode=mode))
        gates.wait_for(point)
        it.fail_over()
        gates.open_all()
        eventually(lambda: moving.done, "the move has ended", 60.0)
        recover_moves(place.router)
        assert it.total() == len(KEYS)
        place.assert_clean()
        if moving.error is not None and place.owner(partition) == source:
            move_partition(place.router, partition, target, mode=mode)
        assert place.owner(partition) == target
        write_all(place.router)
        assert it.total() == 2 * len(KEYS)
        place.assert_clean()
