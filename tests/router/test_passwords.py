"""Passwords that are tokens of a short life, from a callable: wherever a connection is opened, it is asked anew."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from shardpool import Config, Router, Sharded, parse_config
from shardpool.config import PasswordSource
from shardpool.errors import CatalogUnavailable, ShardUnavailable
from shardpool.jobs import run_job
from shardpool.local import LocalCluster
from shardpool.moves import apply_rebalance, move_partition, plan_rebalance
from tests.support.managed import run

HBA = "host all app 127.0.0.1/32 scram-sha-256\n"


def read_token(path: Path, shard: str) -> str:
    """What worker processes are sent, too: the catalog is in the database of the first shard."""
    assert shard in ("s0", "s1"), shard
    return path.read_text(encoding="utf-8")


class Cluster:
    """Two servers on which the role `app` needs the token that is in `path`."""

    def __init__(self, cluster: LocalCluster, path: Path) -> None:
        self.path = path
        self.urls = {name: cluster.url(name) for name in cluster.names}
        for name, url in self.urls.items():
            run(url, "CREATE ROLE app LOGIN REPLICATION", "GRANT ALL ON DATABASE app TO app")
            hba = cluster.server(name).directory / "data" / "pg_hba.conf"
            hba.write_text(HBA + hba.read_text(encoding="utf-8"), encoding="utf-8")
            run(url, "SELECT pg_reload_conf()")
        self.issue("first-token")

    @property
    def config(self) -> Config:
        urls = {
            name: make_url(url).set(username="app").render_as_string(hide_password=False)
            for name, url in self.urls.items()
        }
        document = {
            "keyspace": "shop",
            "partitions": 4,
            "catalog": urls["s0"],
            "shards": {name: {"url": url} for name, url in urls.items()},
            "moves": {"share": 1},
        }
        return parse_config(document, source="test")

    def issue(self, token: str) -> None:
        """Give out another token; the one before opens nothing any more, and all connections are closed."""
        self.path.write_text(token, encoding="utf-8")
        for url in self.urls.values():
            run(url, f"ALTER ROLE app PASSWORD '{token}'")
            run(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with LocalCluster(shards=2) as servers:
        yield Cluster(servers, tmp_path_factory.mktemp("tokens") / "token")


@pytest.fixture(scope="module")
def source(cluster: Cluster) -> PasswordSource:
    found: PasswordSource = partial(read_token, cluster.path)
    Router.initialise(cluster.config, password=found)
    with Router(cluster.config, password=found, listen=False) as router:
        router.create_schema("CREATE TABLE lines (key bigint PRIMARY KEY, n int)", {"lines": Sharded("key")})
        router.copy_into("lines", [(key, 0) for key in range(100)])
    return found


def test_moves_and_jobs_ask_for_the_token_of_the_moment(
    cluster: Cluster, source: PasswordSource, tmp_path: Path
) -> None:
    with Router(cluster.config, password=source) as router:
        cluster.issue("second-token")
        assert router.query("SELECT count(*) FROM lines").scalar_one() == 100
        partition = router.partition_of(7)
        target = next(name for name in cluster.urls if name != router.shard_map.owner(partition.id).name)
        move_partition(router, partition.id, target, mode="logical")
        cluster.issue("third-token")
        moved = apply_rebalance(router, plan_rebalance(router), executor="processes")
        assert len(moved) == 1
        spec: dict[str, Any] = {
            "job": "export",
            "name": "out",
            "to": {"directory": str(tmp_path / "out"), "format": "csv"},
            "run": {"executor": "processes", "workers": 1},
        }
        run_job(router, spec)
        written = "".join(it.read_text(encoding="utf-8") for it in (tmp_path / "out").rglob("*.csv"))
        assert sum(line[:1].isdigit() for line in written.splitlines()) == 100
        assert "token" not in repr(router.config)


def test_an_old_token_is_refused_and_not_told(cluster: Cluster, source: PasswordSource) -> None:
    with pytest.raises(CatalogUnavailable, match="password authentication failed") as caught:
        Router(cluster.config, password=lambda _: "S3cretM4rk")
    assert "S3cretM4rk" not in str(caught.value)
    with Router(cluster.config, password=source, listen=False) as router:
        cluster.issue("fourth-token")
        cluster.path.write_text("S3cretM4rk", encoding="utf-8")
        with pytest.raises(ShardUnavailable, match="password authentication failed") as refused:
            router.execute(7, "SELECT 1")
        assert "S3cretM4rk" not in str(refused.value)
