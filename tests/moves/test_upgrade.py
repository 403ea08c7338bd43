"""One shard after another is upgraded to a later version of PostgreSQL, behind its endpoint, while a router runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from shardpool import Router, Sharded, parse_config
from shardpool.errors import NoSuchShard, PreflightFailed
from shardpool.local import LocalCluster
from shardpool.local.binaries import account_for, programs, run_as
from shardpool.local.document import to_toml
from shardpool.local.initdb import environment
from shardpool.moves import move_partition, register_shard
from tests.cli.cli_tools import run as cli
from tests.moves.move_tools import Place
from tests.support.proxy import Proxy

KEYS = range(100)
SHARDS = ("s0", "s1")


class Upgrade:
    """Two shards of version 16, with the catalog on the first, behind endpoints; and two servers of version 18."""

    def __init__(self, stack: ExitStack) -> None:
        self.old = stack.enter_context(LocalCluster(shards=2, version=16))
        self.new = stack.enter_context(LocalCluster(shards=2, version=18))
        self.endpoints = {name: stack.enter_context(Proxy("127.0.0.1", self.old.server(name).port)) for name in SHARDS}
        urls = {
            name: make_url(self.old.url(name)).set(port=it.port).render_as_string(hide_password=False)
            for name, it in self.endpoints.items()
        }
        self.document = {
            "keyspace": "shop",
            "partitions": 4,
            "catalog": urls["s0"],
            "shards": {name: {"url": url} for name, url in urls.items()},
        }
        self.place = Place(parse_config(self.document, source="test"))
        stack.callback(self.place.close)

    def upgrade(self, name: str) -> None:
        """Restore the shard's database on its new server, and lead to that from now on."""
        server = self.new.server(name)
        account = account_for(server.directory / "data")
        binaries = programs(18, account)
        options = {"cwd": "/", "env": environment(), **run_as(account)}
        dump, restore = (
            [str(binaries / program), "-h", "127.0.0.1", "-U", "shardpool", "-p", str(port), "-d", "app"]
            for program, port in (("pg_dump", self.old.server(name).port), ("psql", server.port))
        )
        self.endpoints[name].refuse()
        with subprocess.Popen(dump, stdout=subprocess.PIPE, **options) as source:
            restored = [*restore, "-q", "-X", "-v", "ON_ERROR_STOP=1"]
            subprocess.run(restored, stdin=source.stdout, check=True, capture_output=True, timeout=60, **options)
        assert source.returncode == 0
        self.endpoints[name].lead_to("127.0.0.1", server.port)
        self.endpoints[name].refuse(False)


@pytest.fixture(scope="module")
def upgrade() -> Iterator[Upgrade]:
    with ExitStack() as stack:
        found = Upgrade(stack)
        router = found.place.router
        router.create_schema("CREATE TABLE lines (key bigint PRIMARY KEY, n int)", {"lines": Sharded("key")})
        router.copy_into("lines", [(key, 1) for key in KEYS])
        yield found


def total(router: Router) -> int:
    return int(router.query("SELECT sum(n) FROM lines").scalar_one())


def test_what_is_not_the_shard_is_not_registered(upgrade: Upgrade) -> None:
    router = upgrade.place.router
    before = router.catalog.identities()
    with pytest.raises(NoSuchShard):
        register_shard(router, "s9")
    upgrade.endpoints["s1"].lead_to("127.0.0.1", upgrade.new.server("s1").port)
    with pytest.raises(PreflightFailed, match="the schema is missing"):
        register_shard(router, "s1")
    upgrade.endpoints["s1"].lead_to("127.0.0.1", upgrade.old.server("s0").port)
    with pytest.raises(PreflightFailed, match="is shard s0 already"):
        register_shard(router, "s1")
    assert router.catalog.identities() == before
    upgrade.endpoints["s1"].lead_to("127.0.0.1", upgrade.old.server("s1").port)


def test_one_shard_after_another(upgrade: Upgrade, tmp_path: Path) -> None:
    place, router = upgrade.place, upgrade.place.router
    config = tmp_path / "cluster.toml"
    config.write_text(to_toml(upgrade.document), encoding="utf-8")
    upgrade.upgrade("s1")
    router.query("UPDATE lines SET n = n + 1")
    assert total(router) == 2 * len(KEYS)
    partition = next(number for number in range(4) if place.owner(number) == "s0")
    with pytest.raises(PreflightFailed, match="shardpool shard register s1") as caught:
        move_partition(router, partition, "s1")
    assert "PostgreSQL's major version is 18 on shard s1 and 16 on shard s0" in str(caught.value)

    registered = cli("shard", "register", "s1", "--json", config=config)
    assert registered.code == 0, registered
    upgrade.upgrade("s0")
    register_shard(router, "s0")
    assert cli("doctor", config=config).code == 0
    move_partition(router, partition, "s1")
    router.query("UPDATE lines SET n = n + 1")
    assert total(router) == 3 * len(KEYS)
    place.assert_clean()
