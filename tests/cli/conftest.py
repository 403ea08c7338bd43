"""A shop on two local servers, once per module, and the path of its cluster.toml."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shardpool import Router, read_config
from shardpool.local import LocalCluster
from tests.cli.cli_tools import SHOP_SQL, SHOP_TABLES

CUSTOMERS = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(shards=2, partitions=8, keyspace="shop") as found:
        yield found


@pytest.fixture(scope="module")
def empty(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a keyspace without tables."""
    path = cluster.write_config(tmp_path_factory.mktemp("cli") / "cluster.toml")
    with path.open("a", encoding="utf-8") as file:
        file.write(SHOP_TABLES)
    Router.initialise(read_config(path))
    return path


@pytest.fixture(scope="module")
def shop(empty: Path) -> Path:
    """The configuration of a keyspace with the shop's tables and some rows."""
    with Router.from_file(empty, listen=False) as router:
        router.create_schema(SHOP_SQL.read_text(encoding="utf-8"))
        router.copy_into("country", [("de", "Germany"), ("fr", "France")])
        customers = [(n, "de" if n % 3 else "fr", f"name {n}", f"{n}@example.org") for n in range(CUSTOMERS)]
        router.copy_into("customers", customers, columns=("customer_id", "country_code", "name", "email"))
    return empty
