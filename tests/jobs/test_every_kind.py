"""Every kind of job, killed at each of its chunks, and beside moves: the same rows as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from psycopg2.errors import UndefinedTable

from shardpool import Router, read_config
from shardpool.bulk import runner
from shardpool.errors import StalePlacement
from shardpool.jobs import following, job_status, plan_job, run_job
from shardpool.jobs.digest import digests_of
from shardpool.jobs.empty import empty
from shardpool.jobs.following import following_moves
from shardpool.jobs.migrate.way_back import fence_keyspace, lift_fence
from shardpool.jobs.replicate.job import surveyed
from shardpool.moves import move_partition
from tests.jobs.anonymise_tools import write_config
from tests.jobs.moving_tools import moving
from tests.jobs.replicate_tools import TABLES, check_replicated, fill, rows_here, rows_there
from tests.support.backends import databases, plain_connection

#: Where a chunk dies: on its way into a keyspace, and into one database, where nothing is prepared or decided.
POINTS = ("written", "prepared", "decided", "committed")
IN_ONE = ("written", "committed")
SECRET = {"KILLED_SECRET": "correct horse battery staple"}
#: One worker: chunks come one after another.
RUN = {"chunk_rows": 15, "workers": 1}
ANONYMISE: dict[str, Any] = {
    "job": "anonymise",
    "name": "killed",
    "secret": {"env": "KILLED_SECRET"},
    "keep_tables": ["country"],
    "undecided": "keep",
    "tables": {"owners": {"id": "pseudonym", "name": "mask"}, "accounts": {"amount": {"rule": "noise", "percent": 9}}},
}


@dataclass(frozen=True)
class Place:
    """A bank, an empty keyspace beside it, and an empty database."""

    bank: Router
    config: Path
    other: Router
    other_config: Path
    url: str


@pytest.fixture
def place(server_urls: list[str], tmp_path: Path) -> Iterator[Place]:
    with (
        databases(server_urls[:2]) as urls,
        databases(server_urls[1:]) as others,
        databases(server_urls[2:3]) as [url],
    ):
        config = write_config(tmp_path / "bank.toml", urls, "bank", partitions=4)
        other_config = write_config(tmp_path / "other.toml", others, "other", partitions=3)
        for path in (config, other_config):
            Router.initialise(read_config(path))
        with (
            Router.from_file(config, listen=False) as bank,
            Router.from_file(other_config, listen=False) as other,
        ):
            fill(bank)
            yield Place(bank, config, other, other_config, url)


def killed_at_each_chunk(config: Path, folder: Path, spec: dict[str, Any], shift: int) -> int:
    """Run a job in processes of which each dies at a chunk of its own, until one does not; return how many died."""
    path = folder / "killed.json"
    path.write_text(json.dumps({"name": "killed", "run": RUN, **spec}))
    code = (
        "import json, sys; from shardpool import Router; from shardpool.jobs import run_job, resume_job\n"
        f"with Router.from_file({str(config)!r}, listen=False) as router:\n"
        f"    (resume_job if sys.argv[1:] else run_job)(router, json.load(open({str(path)!r})))"
    )
    for number in count():
        points = IN_ONE if "url" in {**spec.get("to", {}), **spec.get("load", {})} else POINTS
        fault = f"chunk-{number}-{points[(number + shift) % len(points)]}:kill9"
        environment = {**os.environ, **SECRET, "SHARDPOOL_FAULT": fault}
        command = [sys.executable, "-c", code, *(["resume"] if number else [])]
        done = subprocess.run(command, env=environment, timeout=120, check=False, cwd=Path.cwd(), capture_output=True)
        if done.returncode != -9:
            assert done.returncode == 0, done.stderr.decode()
            return number
    raise AssertionError("unreachable")


#: Runs a job of a keyspace, given its configuration and the spec, and says how often something happened to it.
Runs = Callable[[Path, dict[str, Any]], int]


def exported(place: Place, run: Runs) -> int:
    died = run(place.config, {"job": "export", "to": {"url": place.url}})
    check_replicated(place.bank, place.url)
    return died


def replicated(place: Place, run: Runs) -> int:
    spec = {"job": "replicate", "to": {"url": place.url}, "run": {**RUN, "follow": False}}
    died = run(place.config, spec)
    check_replicated(place.bank, place.url)
    return died


def imported(place: Place, run: Runs) -> int:
    """By way of an export, so that there is something to import."""
    run_job(place.bank, {"job": "export", "name": "out", "to": {"url": place.url}})
    tables = {"country": {"reference": True}, "owners": {"key": "id"}, "accounts": {"key": "owner"}}
    spec = {"job": "import", "from": {"url": place.url}, "tables": tables}
    died = run(place.other_config, spec)
    place.other.refresh()
    check_replicated(place.other, place.url)
    return died


def transformed(place: Place, run: Runs) -> int:
    """From the keyspace into a table of another database."""
    connection = plain_connection(place.url)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE accounts (owner bigint, number text, amount numeric, PRIMARY KEY (owner, number))")
    connection.close()
    spec = {"job": "etl", "extract": {"table": "accounts"}, "load": {"url": place.url, "table": "accounts"}}
    died = run(place.config, spec)
    assert rows_there(place.url, "SELECT t::text FROM accounts t") == rows_here(place.bank, "accounts")
    return died


def anonymised(place: Place, run: Runs) -> int:
    """Twice: what is made up depends on the secret and the value alone."""
    died = run(place.config, {**ANONYMISE, "to": {"config": str(place.other_config)}})
    place.other.refresh()
    found = {table: rows_here(place.other, table) for table in TABLES}
    assert {table: len(rows) for table, rows in found.items()} == {
        table: len(rows_here(place.bank, table)) for table in TABLES
    }
    assert not set(found["accounts"]) & set(rows_here(place.bank, "accounts"))
    for table in ("accounts", "owners", "country"):
        place.other.query(f"TRUNCATE {table} CASCADE" if table == "country" else f"DELETE FROM {table}")
    run_job(place.bank, {**ANONYMISE, "name": "again", "to": {"config": str(place.other_config)}, "run": RUN})
    assert {table: rows_here(place.other, table) for table in TABLES} == found
    return died


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRET.items():
        monkeypatch.setenv(name, value)


JOBS = [exported, replicated, imported, transformed, anonymised]


def check_ended(place: Place) -> None:
    left = [it for it in job_status(place.bank) + job_status(place.other) if it.state not in ("done", "paused")]
    assert left == []


@pytest.mark.slow
@pytest.mark.parametrize("shift", range(len(POINTS)))
@pytest.mark.parametrize("job", JOBS, ids=lambda it: it.__name__)
def test_killed_at_each_chunk(place: Place, tmp_path: Path, job: Callable[[Place, Runs], int], shift: int) -> None:
    died = job(place, lambda config, spec: killed_at_each_chunk(config, tmp_path, spec, shift))
    print(died, "processes died")
    assert died > 5
    check_ended(place)


@pytest.mark.parametrize("job", JOBS, ids=lambda it: it.__name__)
def test_partitions_move_meanwhile(
    place: Place, job: Callable[[Place, Runs], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions move from the first chunk to the end, and the job's own maps are stale again and again."""
    monkeypatch.setattr(runner, "REPORT_INTERVAL", 0.0)
    seed = int(os.environ.get("SHARDPOOL_SEED", "0")) or random.randrange(1 << 30)
    print("seed", seed)

    def beside_moves(config: Path, spec: dict[str, Any]) -> int:
        run = {"chunk_rows": 2, "workers": 2, "attempts": 30}
        run |= {"follow": False} if spec["job"] == "replicate" else {}
        keyspace = place.bank if config == place.config else place.other
        with moving(keyspace, seed) as started, Router.from_file(config, listen=False) as stale:
            run_job(stale, {"name": "killed", **spec, "run": run}, progress=started)
        return 0

    job(place, beside_moves)
    check_ended(place)


def test_an_old_map_is_replaced(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What compares and empties tables finds a partition that moved; without going after it, it is not there."""
    tables = dict(place.bank.topology.tables)
    with Router.from_file(place.config, listen=False) as stale:
        for placement in place.bank.shard_map.placements:
            to = next(it for it in sorted(place.bank.shard_map.shards) if it != placement.shard)
            move_partition(place.bank, placement.partition.id, to)
        with monkeypatch.context() as impatient:
            impatient.setattr(following, "PATIENCE", 0.0)
            with pytest.raises(UndefinedTable):
                digests_of(stale, tables)
            with pytest.raises(StalePlacement):
                empty(stale, ["accounts"])
        assert digests_of(stale, tables) == digests_of(place.bank, tables)
    with Router(place.bank.config, listen=False) as stale:
        partition = place.bank.shard_map.placements[0]
        move_partition(place.bank, partition.partition.id, min({"s0", "s1"} - {partition.shard}))
        empty(stale, ["accounts"])
    assert rows_here(place.bank, "accounts") == []


@contextmanager
def stale_map(place: Place) -> Iterator[Router]:
    """A router that has not heard of the last move of the first partition, in which tables are looked at."""
    with Router.from_file(place.config, listen=False) as stale:
        first = place.bank.shard_map.placements[0]
        move_partition(place.bank, first.partition.id, min({"s0", "s1"} - {first.shard}))
        yield stale


@pytest.mark.parametrize(
    "spec",
    [
        {**ANONYMISE, "to": {"directory": "out"}},
        {"job": "etl", "name": "old", "extract": {"query": "SELECT * FROM owners"}, "load": {"directory": "out"}},
    ],
    ids=lambda it: str(it["job"]),
)
def test_jobs_are_prepared_with_an_old_map(
    place: Place, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with stale_map(place) as stale:
        assert plan_job(stale, spec)["samples"]


def test_the_tables_of_an_old_map_are_not_taken_for_none(place: Place) -> None:
    with stale_map(place) as stale:
        _, own = following_moves(stale, lambda topology: surveyed(stale.engines, topology))
        assert set(own.tables) == {"owners", "accounts"}


def test_a_fence_is_found_with_an_old_map(place: Place) -> None:
    """One that is not found would stay, and refuse writes for ever."""
    fence_keyspace(place.bank, "old", ["owners"])
    with pytest.raises(Exception, match="moved back"):
        place.bank.execute(1, "DELETE FROM owners WHERE id = 1")
    with stale_map(place) as stale:
        fence_keyspace(stale, "old", ["owners"])  # is there, and not made again
    with stale_map(place) as stale:
        lift_fence(stale, "old", ["owners"])
    place.bank.refresh()
    place.bank.execute(1, "UPDATE owners SET name = 'new' WHERE id = 1")
