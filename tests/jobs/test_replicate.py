"""Replicating: who was told of everything has the same rows, whatever died and wherever partitions moved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shardpool import Router, Sharded, read_config
from shardpool.bulk.database_source import database_config
from shardpool.bulk.positions import CATALOG, Positions
from shardpool.config import parse_endpoint
from shardpool.engines import Engines
from shardpool.errors import JobFailed, JobRefused, SchemaBusy, ShardpoolError, UnknownTable
from shardpool.jobs import cancel_job, job_status, pause_job, plan_job, resume_job, run_job
from shardpool.jobs.replicate import capture, follow, references
from shardpool.jobs.replicate.receivers import DatabaseReceiver
from shardpool.jobs.replicate.references import References
from shardpool.local import LocalCluster
from shardpool.moves import change_partitions, move_partition, plan_merge, plan_split
from tests.cli.cli_tools import run
from tests.jobs.anonymise_tools import write_config
from tests.jobs.replicate_tools import (
    OWNERS,
    SPEC,
    TOTAL,
    check_replicated,
    fill,
    folded,
    rows_as_json,
    rows_there,
    told_in_files,
    writing,
)
from tests.support.backends import databases

SEED = int(os.environ.get("SHARDPOOL_SEED", "11"))


@dataclass(frozen=True)
class Place:
    """A bank of two shards, its configuration, and a database that is to have the same rows."""

    router: Router
    config: Path
    url: str

    @property
    def spec(self) -> dict[str, Any]:
        return {**SPEC, "to": {"url": self.url}}


@pytest.fixture
def place(server_urls: list[str], tmp_path: Path) -> Iterator[Place]:
    with databases(server_urls[:2]) as urls, databases(server_urls[2:3]) as [url]:
        config = write_config(tmp_path / "cluster.toml", urls, "bank", partitions=4)
        Router.initialise(read_config(config))
        with Router.from_file(config, listen=False) as router:
            fill(router)
            yield Place(router, config, url)


def killed(place: Place, folder: Path, spec: dict[str, Any], fault: str, command: str = "run") -> None:
    """Run the job in a process that dies at *fault*."""
    path = folder / "feed.json"
    path.write_text(json.dumps(spec))
    code = (
        "import json, sys; from shardpool import Router; from shardpool.jobs import run_job, resume_job\n"
        f"with Router.from_file({str(place.config)!r}, listen=False) as router:\n"
        f"    {command}_job(router, json.load(open({str(path)!r})))"
    )
    environment = {**os.environ, "SHARDPOOL_FAULT": f"{fault}:kill9"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=120, check=False, cwd=Path.cwd())
    assert done.returncode == -9


def test_a_database_follows_writers_and_moves(place: Place) -> None:
    print("seed", SEED)
    router = place.router
    with writing(router, SEED) as teller:
        assert run_job(router, place.spec).state == "paused"
        runner = threading.Thread(target=lambda: resume_job(router, {**place.spec, "run": {"workers": 3}}))
        runner.start()
        try:
            for _ in range(2):
                for placement in router.shard_map.placements:
                    to = next(name for name in sorted(router.shard_map.shards) if name != placement.shard)
                    move_partition(router, placement.partition.id, to=to)
                # Each transaction of a partition is there whole or not at all.
                torn = f"SELECT owner::text FROM accounts GROUP BY owner HAVING sum(amount) <> {TOTAL}"
                assert rows_there(place.url, torn) == []
        finally:
            pause_job(router, "feed")
            runner.join()
        assert teller.done > 30
    [record] = job_status(router)
    assert (record.state, record.progress["changes"] > 0) == ("paused", True)
    assert resume_job(router, place.spec).state == "paused"
    check_replicated(router, place.url)
    [record] = job_status(router)
    assert record.progress["waiting"] == 0
    # Nothing is left in the logs.
    assert router.query('SELECT count(*) FROM "feed__feed__accounts"').scalar_one() == 0


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("chunk-3-committed", marks=pytest.mark.slow),
        pytest.param("batch-applied", marks=pytest.mark.slow),
        "batch-committed",
        pytest.param("batch-forgotten", marks=pytest.mark.slow),
    ],
)
def test_kill_9_and_resume(place: Place, tmp_path: Path, point: str) -> None:
    with writing(place.router, SEED):
        if point.startswith("batch"):
            assert run_job(place.router, place.spec).state == "paused"
        killed(place, tmp_path, place.spec, point, "resume" if point.startswith("batch") else "run")
        assert job_status(place.router)[0].shown_state == "interrupted"
    assert resume_job(place.router, place.spec).state == "paused"
    check_replicated(place.router, place.url)


def test_a_write_that_is_not_noted_is_missed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: the triggers say nothing of updates."""
    body = capture._body
    silent = "BEGIN IF tg_op = 'UPDATE' THEN RETURN NULL; END IF;"
    monkeypatch.setattr(capture, "_body", lambda job, table: body(job, table).replace("BEGIN", silent, 1))
    run_job(place.router, place.spec)
    place.router.query("UPDATE owners SET name = 'other' WHERE id = 7")
    resume_job(place.router, place.spec)
    with pytest.raises(AssertionError):
        check_replicated(place.router, place.url)


@pytest.mark.parametrize("planted", [False, True])
def test_what_is_written_while_it_is_told_is_told_later(
    place: Place, monkeypatch: pytest.MonkeyPatch, planted: bool
) -> None:
    """The planted fault: logs are emptied at another snapshot than they were read at."""
    run_job(place.router, place.spec)
    place.router.query("UPDATE owners SET name = 'first' WHERE id = 7")
    forget, written = follow.forget, []

    def late(cursor: Any, job: str, tables: Any) -> None:
        if not written:
            written.append(place.router.query("UPDATE owners SET name = 'second' WHERE id = 7"))
            if planted:
                cursor.connection.commit()
                cursor.execute(place.router.topology.search_paths[place.router.partition_of(7).id])
        forget(cursor, job, tables)

    monkeypatch.setattr(follow, "forget", late)
    resume_job(place.router, place.spec)
    with pytest.raises(AssertionError) if planted else nullcontext():
        check_replicated(place.router, place.url)


def test_files_tell_each_change(place: Place, tmp_path: Path) -> None:
    spec = {**SPEC, "to": {"directory": str(tmp_path / "out")}}
    assert run_job(place.router, spec).state == "paused"
    assert folded(told_in_files(tmp_path / "out")) == rows_as_json(place.router)
    with writing(place.router, SEED):
        pass
    place.router.query("DELETE FROM accounts WHERE owner = 3")
    place.router.query("DELETE FROM owners WHERE id = 3")
    # What was told, and not heard of, is told again under the same ids.
    killed(place, tmp_path, spec, "batch-committed", "resume")
    before = {it["id"] for it in told_in_files(tmp_path / "out") if it["op"] != "copy"}
    assert before
    assert resume_job(place.router, spec).state == "paused"
    told = [it for it in told_in_files(tmp_path / "out") if it["op"] != "copy"]
    again = [it["id"] for it in told if it["id"] in before]
    assert len(again) > len(before)
    once = {it["id"]: it for it in told}
    assert all(once[it["id"]] == it for it in told)
    assert folded(told_in_files(tmp_path / "out")) == rows_as_json(place.router)
    assert {it["op"] for it in told} >= {"upsert", "delete"}


def test_a_function_is_told(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feed.py").write_text(
        "import json\n"
        "def take(changes):\n"
        "    with open('told.jsonl', 'a') as file:\n"
        "        file.write(''.join(json.dumps(it, default=str) + '\\n' for it in changes))\n"
    )
    spec = {**SPEC, "to": {"python": "feed.py:take"}}
    assert run_job(place.router, spec).state == "paused"
    place.router.query("UPDATE accounts SET amount = amount + 1 WHERE owner < 9")
    place.router.query("DELETE FROM accounts WHERE owner = 3")
    assert resume_job(place.router, spec).state == "paused"
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert folded(told) == rows_as_json(place.router)
    changes = [it for it in told if it["op"] != "copy"]
    assert sorted({it["op"] for it in changes}) == ["delete", "upsert"]
    assert all(it["batch"] == 1 for it in changes)


def test_a_run_that_was_thought_dead_tells_nothing(place: Place) -> None:
    job = uuid.uuid4()
    first, second = (Positions(CATALOG, job, uuid.uuid4()) for _ in range(2))
    with place.router.catalog.begin() as connection:
        cursor = connection.connection.cursor()
        assert [first.next(cursor, 3), first.next(cursor, 3), first.next(cursor, 4)] == [1, 2, 1]
        second.claim(cursor)
        with pytest.raises(JobFailed, match="another run"):
            first.next(cursor, 3)
        assert second.next(cursor, 3) == 3


def test_cancelled_it_leaves_the_tables_as_they_were(place: Place) -> None:
    run_job(place.router, place.spec)
    with pytest.raises(Exception, match="TRUNCATE cannot be replicated"):
        place.router.query("TRUNCATE accounts")
    # Other jobs do not see its logs.
    samples = plan_job(place.router, {"job": "export", "name": "x", "to": {"directory": "x"}})["samples"]
    assert sorted(it["table"] for it in samples) == ["accounts", "country", "owners"]
    cancel_job(place.router, "feed")
    assert sorted(place.router.topology.tables) == ["accounts", "country", "owners"]
    place.router.query("TRUNCATE accounts")
    with pytest.raises(JobRefused, match="has rows already"):
        run_job(place.router, place.spec)


def test_cancelled_while_a_move_holds_the_schema(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    run_job(place.router, place.spec)
    busy, change = threading.Event(), Router.create_schema

    def told(*args: Any) -> object:
        try:
            return change(*args)
        except SchemaBusy:
            busy.set()
            raise

    monkeypatch.setattr(Router, "create_schema", told)
    with place.router.catalog.lock("topology", lambda: AssertionError("somebody has it")):
        cancelling = threading.Thread(target=cancel_job, args=(place.router, "feed"))
        cancelling.start()
        assert busy.wait(60)
    cancelling.join(60)
    place.router.refresh()
    assert job_status(place.router)[0].state == "cancelled"
    assert sorted(place.router.topology.tables) == ["accounts", "country", "owners"]


def test_what_cannot_be_replicated_is_refused(place: Place) -> None:
    place.router.create_schema("CREATE TABLE loose (id bigint NOT NULL)", {"loose": Sharded("id")})
    changes: list[tuple[dict[str, Any], str]] = [
        ({"tables": ["country"], "to": {"directory": "x"}}, "is a reference table"),
        ({"tables": ["nothing"]}, "nothing"),
        ({"tables": ["loose"]}, "no primary key"),
        ({"name": "a__b"}, "__"),
        ({"name": "a-long-name-" * 5}, "too long"),
    ]
    for change, message in changes:
        with pytest.raises((JobRefused, UnknownTable), match=message):
            run_job(place.router, {**place.spec, "tables": ["owners"], **change})


def test_a_database_has_reference_tables_too(place: Place) -> None:
    """Its own changes of them are undone, and it is found out while the job goes on."""
    router = place.router
    run_job(router, place.spec)
    check_replicated(router, place.url)
    router.query("INSERT INTO country VALUES ('it')")
    router.query("UPDATE country SET name = 'Deutsch\tland' WHERE code = 'de'")
    router.query("DELETE FROM country WHERE code = 'fr'")
    assert resume_job(router, place.spec).progress.changes == 3
    check_replicated(router, place.url)
    rows_there(place.url, "UPDATE country SET name = 'other' RETURNING code")
    runner = threading.Thread(target=lambda: resume_job(router, {**place.spec, "run": {}}))
    runner.start()
    try:
        eventually(lambda: "other" not in rows_there(place.url, "SELECT name FROM country"))
        router.query("UPDATE country SET name = 'Italia' WHERE code = 'it'")
        eventually(lambda: "Italia" in rows_there(place.url, "SELECT name FROM country"))
    finally:
        pause_job(router, "feed")
        runner.join()
    check_replicated(router, place.url)


def test_writes_of_reference_tables_that_no_server_counted_are_found(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: as the counts never change, only the clock tells."""
    monkeypatch.setattr(references, "_WRITES", "SELECT 0 WHERE %s::regclass IS NOT NULL")
    run_job(place.router, place.spec)
    engines = Engines(database_config(parse_endpoint(place.url, "test", "to", None), "public", "UTC", 2))
    try:
        receiver = DatabaseReceiver(engines, "public")
        receiver.begin(uuid.uuid4())
        keep = References(place.router, {"country": place.router.topology.tables["country"]}, receiver, always=False)
        assert keep() == 0
        place.router.query("UPDATE country SET name = 'Italia'")
        assert keep() == 0
        monkeypatch.setattr(references, "INTERVAL", 0.0)
        assert keep() == 2
    finally:
        engines.close()
    check_replicated(place.router, place.url)


def test_splits_and_merges_beside_writers(place: Place) -> None:
    """What is noted goes along with its rows, whatever partition they come to be in."""
    print("seed", SEED)
    router = place.router
    with writing(router, SEED):
        assert run_job(router, place.spec).state == "paused"
        runner = threading.Thread(target=lambda: resume_job(router, {**place.spec, "run": {"workers": 3}}))
        runner.start()
        try:
            for _ in range(2):
                first = router.shard_map.partitions[0].id
                change_partitions(router, plan_split(router, first, to=max(router.shard_map.shards)))
                router.refresh()
                ids = [it.id for it in router.shard_map.partitions]
                change_partitions(router, plan_merge(router, ids[1:3]))
                router.refresh()
        finally:
            pause_job(router, "feed")
            runner.join()
    assert resume_job(router, place.spec).state == "paused"
    assert job_status(router)[0].progress["waiting"] == 0
    check_replicated(router, place.url)


def test_a_resumed_job_is_the_same(place: Place) -> None:
    run_job(place.router, place.spec)
    place.router.create_schema("ALTER TABLE owners ADD COLUMN more text", {})
    with pytest.raises(JobRefused, match="have changed since"):
        resume_job(place.router, place.spec)


def test_the_command_line_shows_the_lag(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "feed.toml"
    path.write_text(
        f'job = "replicate"\nname = "feed"\n[run]\nfollow = false\nworkers = 2\n[to]\nurl = "{place.url}"\n'
    )
    assert "paused" in run("job", "run", path, config=place.config).out
    place.router.query(f"UPDATE owners SET name = 'x' WHERE id < {OWNERS}")
    assert "paused" in run("job", "resume", "feed", config=place.config).out
    shown = run("job", "status", "--json", config=place.config).json["jobs"][0]["progress"]
    assert (shown["changes"], shown["waiting"], shown["lag"]) == (OWNERS, 0, 0.0)
    assert "lag" in run("job", "status", config=place.config).out
    check_replicated(place.router, place.url)


def test_a_cancel_that_cannot_remove_the_triggers_is_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    run_job(place.router, place.spec)

    def busy(*_: object) -> None:
        raise SchemaBusy("SP264", "a long transaction is in the way")

    with monkeypatch.context() as patched:
        patched.setattr("shardpool.jobs.replicate.job.stop_capture", busy)
        with pytest.raises(SchemaBusy):
            cancel_job(place.router, "feed")
    assert job_status(place.router)[0].state == "paused"
    cancel_job(place.router, "feed")
    assert sorted(place.router.topology.tables) == ["accounts", "country", "owners"]


def test_a_shard_that_is_away_for_long_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with LocalCluster(shards=2, partitions=4, keyspace="bank") as cluster, cluster.router() as router:
        fill(router)
        spec = {**SPEC, "to": {"directory": str(tmp_path / "out")}, "run": {"attempts": 1, "workers": 2}}
        runner = threading.Thread(target=run_job, args=(router, spec))
        runner.start()
        try:
            eventually(lambda: any(it.progress.get("chunks_done") == 8 for it in job_status(router)))
            cluster.kill("s1")
            eventually(lambda: "goes on when that is over" in caplog.text)
            cluster.start("s1")
            eventually(lambda: router.query("SELECT 1 FROM accounts LIMIT 1").first() is not None)
            router.query("UPDATE accounts SET amount = amount + 1")
            eventually(lambda: job_status(router)[0].progress["changes"] >= 2 * OWNERS)
        finally:
            pause_job(router, "feed")
            runner.join()
        assert job_status(router)[0].state == "paused"
        assert folded(told_in_files(tmp_path / "out")) == rows_as_json(router)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while True:
        with suppress(ShardpoolError):
            if condition():
                return
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
