"""LocalCluster and LocalServer on real servers."""

from __future__ import annotations

import signal
import socket
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from shardpool.config import read_config
from shardpool.local import LocalCluster, LocalClusterError, LocalServer, ports, reaper
from tests.local.local_tools import sql
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    begin = time.monotonic()
    with LocalCluster(shards=3) as cluster:
        print(f"three shards started in {time.monotonic() - begin:.2f} s")
        assert time.monotonic() - begin < 15
        yield cluster


def test_servers_are_set_up_for_sharding(cluster: LocalCluster) -> None:
    assert cluster.names[:3] == ("s0", "s1", "s2")
    for name in ("s0", "s1", "s2"):
        url = cluster.url(name)
        assert url == f"postgresql+psycopg2://shardpool@127.0.0.1:{cluster.server(name).port}/app"
        assert sql(url, "SELECT current_setting('server_version_num')::int / 10000") == [(18,)]
        for parameter, value in {
            "wal_level": "logical",
            "server_encoding": "UTF8",
            "timezone": "UTC",
            "fsync": "off",
            "data_checksums": "off",
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "max_prepared_transactions": "100",
            "max_replication_slots": "20",
            "max_wal_senders": "20",
            "shared_buffers": "64MB",
        }.items():
            assert sql(url, f"SHOW {parameter}") == [(value,)], parameter


def test_text_is_ordered_by_code_point_and_has_unicode_case(cluster: LocalCluster) -> None:
    assert sql(cluster.url("s0"), "SELECT upper('straße é'), 'Z' < 'a', 'é' > 'z', 'é' ~ '^[[:alpha:]]$'") == [
        ("STRAßE É", True, True, True)
    ]


def test_each_server_has_its_own_system_identifier(cluster: LocalCluster) -> None:
    query = "SELECT system_identifier FROM pg_control_system()"
    assert len({sql(cluster.url(name), query)[0] for name in cluster.names}) == len(cluster.names)


def test_logical_replication_works(cluster: LocalCluster) -> None:
    source, target = cluster.url("s0"), cluster.url("s1")
    for url in (source, target):
        sql(url, "CREATE TABLE replicated (id int PRIMARY KEY)")
    sql(source, "INSERT INTO replicated VALUES (1)")
    sql(source, "CREATE PUBLICATION p FOR TABLE replicated")
    port = cluster.server("s0").port
    sql(
        target, f"CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port={port} user=shardpool dbname=app' PUBLICATION p"
    )
    eventually(lambda: sql(target, "SELECT id FROM replicated") == [(1,)], "the row is copied")
    sql(target, "DROP SUBSCRIPTION s")


def test_stop_and_start_keep_data_and_port(cluster: LocalCluster) -> None:
    url = cluster.url("s1")
    sql(url, "CREATE TABLE kept_by_stop AS SELECT 1 AS id")
    cluster.stop("s1")
    assert cluster.server("s1").pid is None
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        sql(url, "SELECT 1")
    assert sql(cluster.url("s0"), "SELECT 1") == [(1,)]
    cluster.start("s1")
    assert cluster.url("s1") == url
    assert sql(url, "SELECT id FROM kept_by_stop") == [(1,)]


def test_kill_ends_all_processes_and_start_recovers(cluster: LocalCluster) -> None:
    url, pid = cluster.url("s2"), cluster.server("s2").pid
    sql(url, "CREATE TABLE kept_by_recovery AS SELECT generate_series(1, 1000) AS id")
    family = {process.pid for process in reaper.processes() if pid in (process.pid, process.parent)}
    assert len(family) > 3
    cluster.kill("s2")
    assert not family & {process.pid for process in reaper.processes()}
    cluster.kill("s2")  # no-op
    cluster.start("s2")
    assert cluster.url("s2") == url
    assert sql(url, "SELECT count(*) FROM kept_by_recovery") == [(1000,)]
    assert "not properly shut down" in cluster.server("s2").log.read_text()


def test_the_port_of_a_stopped_shard_is_not_given_away(cluster: LocalCluster) -> None:
    port = cluster.server("s1").port
    cluster.stop("s1")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((ports.LOOPBACK, port))
    cluster.start("s1")
    assert cluster.server("s1").port == port


def test_add_shard(cluster: LocalCluster) -> None:
    assert cluster.add_shard() == "s3"
    assert cluster.add_shard("archive") == "archive"
    assert cluster.names == ("s0", "s1", "s2", "s3", "archive")
    assert sql(cluster.url("archive"), "SELECT current_database()") == [("app",)]
    for name in ("s1", "../x", "", "S9"):
        with pytest.raises(ValueError, match="taken, or not a name"):
            cluster.add_shard(name)
    with pytest.raises(LocalClusterError, match="no shard 's9'"):
        cluster.url("s9")


def test_write_config(cluster: LocalCluster, tmp_path: Path) -> None:
    path = cluster.write_config(tmp_path / "cluster.toml")
    assert tomllib.loads(path.read_text()) == {
        "keyspace": "app",
        "partitions": 16,
        "catalog": cluster.url("s0"),
        "shards": {name: {"url": cluster.url(name)} for name in cluster.names},
    }
    assert read_config(path).keyspace == "app"


def test_a_directory_is_reused(tmp_path: Path) -> None:
    directory = tmp_path / "a b'c"  # as root, below a directory that the server's user cannot enter
    with LocalCluster(shards=1, directory=directory, settings={"work_mem": "8MB"}) as cluster:
        url, added = cluster.url("s0"), cluster.url(cluster.add_shard())
        sql(url, "CREATE TABLE kept AS SELECT 7 AS id")
        assert sql(url, "SHOW fsync") == [("on",)]
        assert sql(url, "SHOW work_mem") == [("8MB",)]
        with pytest.raises(LocalClusterError, match="has a LocalCluster on"):
            LocalCluster(directory=directory).start()
    assert reaper.find(directory) == []
    with LocalCluster(shards=1, directory=directory) as cluster:
        assert (cluster.url("s0"), cluster.url("s1")) == (url, added)
        assert sql(url, "SELECT id FROM kept") == [(7,)]
        assert sql(url, "SHOW work_mem") == [("4MB",)]
    with pytest.raises(LocalClusterError, match="holds PostgreSQL 18, expected PostgreSQL 16"):
        LocalCluster(shards=1, directory=directory, version=16).start()


def test_a_taken_port_is_replaced(tmp_path: Path) -> None:
    server = LocalServer("x", tmp_path / "x")
    server.start()
    first = server.port
    server.stop()
    server.release_port()
    with socket.create_server((ports.LOOPBACK, first)):
        again = LocalServer("x", tmp_path / "x")
        again.start()
        assert again.port != first
        assert sql(again.url, "SELECT 1") == [(1,)]
        again.stop()


def test_version_16_and_closing_a_frozen_server() -> None:
    with LocalCluster(shards=1, version=16) as cluster:
        directory = cluster.directory
        assert sql(cluster.url("s0"), "SELECT current_setting('server_version_num')::int / 10000") == [(16,)]
        assert sql(cluster.url("s0"), "SELECT 'Z' < 'a', upper('é')") == [(True, "É")]
        pid = cluster.server("s0").pid
        assert pid is not None
        reaper.send(pid, signal.SIGSTOP)
    assert not directory.exists()


def test_a_postmaster_that_died_alone_can_be_started_again() -> None:
    with LocalCluster(shards=1) as cluster:
        pid = cluster.server("s0").pid
        assert pid is not None
        reaper.send(pid, signal.SIGKILL)
        eventually(lambda: cluster.server("s0").pid is None, "the postmaster is gone")
        cluster.start("s0")
        assert sql(cluster.url("s0"), "SELECT 1") == [(1,)]


def test_a_failed_start_shows_the_log_and_leaves_nothing(open_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(open_directory))
    cluster = LocalCluster(shards=2, settings={"shared_buffers": "much"})
    with pytest.raises(LocalClusterError, match='invalid value for parameter "shared_buffers"'):
        cluster.start()
    assert reaper.find(open_directory) == []
    assert list(open_directory.iterdir()) == []
    with pytest.raises(LocalClusterError, match="not started"):
        cluster.write_config(open_directory / "cluster.toml")


def test_a_cluster_can_be_started_again_after_close() -> None:
    cluster = LocalCluster(shards=1)
    first = cluster.start().directory
    cluster.close()
    cluster.close()
    with cluster:
        assert cluster.directory != first
        assert sql(cluster.url("s0"), "SELECT 1") == [(1,)]
