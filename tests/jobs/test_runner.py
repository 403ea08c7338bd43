"""The runner: each row exactly once, whatever dies, moves or is bad."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
import time
import uuid
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text

from shardpool import Router
from shardpool.bulk import executors, keyset, keyspace_sink, runner, throttle, together
from shardpool.bulk.chunk import Chunk, Ticket
from shardpool.bulk.keyspace_sink import KeyspaceSink
from shardpool.bulk.runner import JobProgress
from shardpool.bulk.throttle import RateLimits
from shardpool.bulk.watcher import Watcher
from shardpool.bulk.worker import PATIENCE, run_chunk, serving
from shardpool.errors import BadRows, ChunkDone, JobBusy, JobFailed, JobRefused, LoadInDoubt, LoadUndone, MoveError
from shardpool.local import LocalCluster
from shardpool.moves import move_partition
from tests.jobs.job_tools import (
    BAD_NOTE,
    OPTIONS,
    CopyWork,
    JobJournal,
    all_rows,
    check_copied,
    config_of,
    in_process,
    make_tables,
    replace,
    start,
)
from tests.support.waiting import eventually

POINTS = ("written", "prepared", "decided", "committed")


def test_a_copy_with_threads(router: Router) -> None:
    done = start(router)
    assert done.state == "done"
    assert done.chunks == done.chunks_done > 40
    check_copied(router)
    found = JobJournal(router.catalog).find("copy")
    assert found is not None
    assert (found.state, found.progress["rows"]) == ("done", done.rows)
    with router.catalog.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM shardpool_catalog.job_chunk")).scalar_one() == 0
        query = text("SELECT count(*) FROM shardpool_catalog.load_decision WHERE strpos(gid, :job) > 0")
        assert connection.execute(query, {"job": found.id.hex}).scalar_one() == 0


def test_chunks_are_even_and_complete(router: Router) -> None:
    work = CopyWork(router.config).opened(router)
    streams = work.source.streams()
    for stream in (it for it in streams if it.table == "part"):
        cuts: list[Any] = [None, *work.source.bounds(stream, 30), None]
        sizes = []
        for after, upto in itertools.pairwise(cuts):
            chunk = Chunk(0, stream.name, stream.table, 0, stream.partition, after, upto)
            sizes.append(len(work.source.read(chunk).records))
        assert sum(sizes) == len(work.source.read(Chunk(0, stream.name, "part", 0, stream.partition)).records)
        assert all(size == 30 for size in sizes[:-1])
        assert 15 <= sizes[-1] <= 45


def test_large_tables_are_cut_by_a_sample(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks may be of any size then, but together they are the table."""
    monkeypatch.setattr(keyset, "LARGE", 0)
    work = CopyWork(router.config).opened(router)
    for stream in work.source.streams():
        cuts: list[Any] = [None, *work.source.bounds(stream, 100), None]
        found: list[bytes] = []
        for after, upto in itertools.pairwise(cuts):
            chunk = Chunk(0, stream.name, stream.table, 0, stream.partition, after, upto)
            found += work.source.read(chunk).records
        whole = work.source.read(Chunk(0, stream.name, stream.table, 0, stream.partition)).records
        assert sorted(found) == sorted(whole)


# -- death ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS)
def test_kill_9_and_resume(router: Router, place_urls: list[str], point: str) -> None:
    assert in_process(place_urls, fault=f"chunk-13-{point}") == -9
    found = JobJournal(router.catalog).find("copy")
    assert found is not None
    assert found.shown_state == "interrupted"
    assert start(router, resume=True).state == "done"
    check_copied(router)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_kill_9_at_every_chunk(router: Router, place_urls: list[str], point: str) -> None:
    """One job that is killed at each of its chunks in turn."""
    number, killed = 0, []
    sink = CopyWork(router.config).opened(router).sink
    while in_process(place_urls, fault=f"chunk-{number}-{point}", resume=bool(killed), WORKERS="1") == -9:
        killed.append(number)
        found = JobJournal(router.catalog).find("copy")
        assert found is not None
        sink.prepare(found.id)
        done = sink.done(found.id)
        if point == "written" and number in done:
            raise AssertionError("a chunk that was not prepared is written")
        left = [it.number for it in JobJournal(router.catalog).chunks(found.id) if it.number not in done]
        # Where nothing of the chunk was left, it is killed a second time only if the fault is asked for again.
        number = next((it for it in left if it > number), number + 1)
    assert len(killed) >= 40
    check_copied(router)


def test_the_checker_sees_a_chunk_that_is_written_twice(
    router: Router, place_urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_process(place_urls, fault="chunk-40-committed") == -9
    work = CopyWork(router.config).opened(router)
    job = JobJournal(router.catalog).find("copy")
    assert job is not None
    loose = next(
        chunk
        for chunk in JobJournal(router.catalog).chunks(job.id)
        if chunk.table == "loose" and work.source.read(chunk).records
    )
    assert start(router, resume=True).state == "done"
    batches, _ = work.transform(work.source.read(loose))
    with pytest.raises(ChunkDone):
        work.sink.write(Ticket(job.id, loose), batches, [])
    check_copied(router)
    monkeypatch.setattr(together, "decide_chunk", _without_ledger)
    monkeypatch.setattr(keyspace_sink, "refuse_entered", lambda catalog, ticket: None)
    work.sink.write(Ticket(job.id, loose), batches, [])
    with pytest.raises(AssertionError):
        check_copied(router)


def _without_ledger(catalog: Any, gid: str, ticket: Ticket, tally: Any) -> None:
    from shardpool.bulk.decision import decide_commit

    decide_commit(catalog, gid)


def test_connections_are_cut_again_and_again(router: Router) -> None:
    """Every connection of the pools is terminated each time that some chunks are done."""
    cuts: list[int] = []

    def cut(progress: JobProgress) -> None:
        if len(cuts) >= 12:
            return
        with router.catalog.begin() as connection:
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            query += "WHERE application_name = 'shardpool shop' AND datname = current_database()"
            connection.execute(text(query))
        cuts.append(progress.chunks_done)

    options = replace(OPTIONS, workers=2, chunk_rows=30)
    stop = threading.Event()

    def again() -> None:
        while not stop.wait(0.05):
            cut(JobProgress("copy", "running"))

    cutter = threading.Thread(target=again)
    cutter.start()
    try:
        assert start(router, options=options).state == "done"
    finally:
        stop.set()
        cutter.join()
    assert len(cuts) >= 3
    check_copied(router)


# -- executors ------------------------------------------------------------------------------------------------------


def test_processes(router: Router) -> None:
    assert start(router, executor="processes", options=replace(OPTIONS, workers=2)).state == "done"
    check_copied(router)


def test_a_killed_worker_process(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDPOOL_FAULT", "chunk-13-prepared:kill9")
    with pytest.raises(JobFailed):
        start(router, executor="processes", options=replace(OPTIONS, workers=2))
    monkeypatch.delenv("SHARDPOOL_FAULT")
    assert start(router, executor="processes", options=replace(OPTIONS, workers=2), resume=True).state == "done"
    check_copied(router)


def test_threads_and_processes(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs for longer than a moment goes on in this process and in others at once."""
    monkeypatch.setattr(executors, "cores", lambda: 2)
    monkeypatch.setattr(executors, "SHORT", 0.0)
    with executors.open_executor("auto", 2) as both:
        found, until = set[int](), time.monotonic() + 60
        while len(found) < 2 and time.monotonic() < until:
            found.update(it.result() for it in [both.submit(os.getpid), both.submit(os.getpid)])
        assert len(found) == 2
        assert os.getpid() in found
        with pytest.raises(ZeroDivisionError):
            [it.result() for it in [both.submit(divmod, 1, 0), both.submit(divmod, 1, 0)]]
    assert start(router, executor="auto", options=replace(OPTIONS, workers=2)).state == "done"
    check_copied(router)


def test_a_process_beside_threads_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chunk fails, and so the run, which can be resumed; nothing hangs."""
    monkeypatch.setattr(executors, "cores", lambda: 2)
    monkeypatch.setattr(executors, "SHORT", 0.0)
    until = time.monotonic() + 60
    with executors.open_executor("auto", 2) as both, pytest.raises(BrokenProcessPool):
        while time.monotonic() < until:
            for ended in [both.submit(_end_unless, os.getpid()), both.submit(_end_unless, os.getpid())]:
                ended.result(60)


def _end_unless(pid: int) -> None:
    if os.getpid() != pid:
        os._exit(1)


def test_processes_leave_an_interrupt_to_their_coordinator() -> None:
    """Ctrl-C reaches them, too: they go on, so that it is the coordinator that ends their work."""
    with executors.open_executor("processes", 1) as processes:
        pid = processes.submit(os.getpid).result(60)
        os.kill(pid, signal.SIGINT)
        assert processes.submit(os.getpid).result(60) == pid


def test_errors_of_processes_arrive() -> None:
    """And leave the others alive, whatever arguments their classes take."""
    with executors.open_executor("processes", 1) as processes:
        with pytest.raises(BadRows, match="row 7: no use") as caught:
            processes.submit(_refuse).result(60)
        assert (caught.value.source, caught.value.allowed) == ("row 7", 3)
        assert processes.submit(int).result(60) == 0


def _refuse() -> None:
    raise BadRows("row 7", "no use", 3)


def test_what_cannot_be_sent_to_processes_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "cores", lambda: 2)
    monkeypatch.setattr(executors, "SHORT", 0.0)
    with executors.open_executor("auto", 2) as both:
        assert [it.result() for it in [both.submit(lambda: os.getpid()) for _ in range(20)]] == [os.getpid()] * 20


# -- users ----------------------------------------------------------------------------------------------------------


def test_two_runs_at_once_are_refused(router: Router, place_urls: list[str]) -> None:
    refused: list[str] = []

    def meanwhile(progress: JobProgress) -> None:
        if not refused:
            with pytest.raises(JobBusy) as caught:
                start(router, resume=True)
            refused.append(str(caught.value))

    assert start(router, report=meanwhile).state == "done"
    assert "another process" in refused[0]
    check_copied(router)


def test_an_unfinished_job_is_not_begun_again(router: Router, place_urls: list[str]) -> None:
    assert in_process(place_urls, fault="chunk-2-written") == -9
    with pytest.raises(JobRefused, match=r"(interrupted|running): resume it, or cancel it first"):
        start(router)


@pytest.mark.parametrize("wanted", ["pause", "cancel"])
def test_pause_and_cancel(router: Router, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "REPORT_INTERVAL", 0.0)
    journal = JobJournal(router.catalog)
    asked: list[int] = []

    def ask(progress: JobProgress) -> None:
        if not asked:
            asked.append(progress.chunks_done)
            journal.want("copy", wanted)

    stopped = start(router, report=ask, options=replace(OPTIONS, chunk_rows=20))
    assert stopped.chunks_done < stopped.chunks or stopped.chunks == 0
    if wanted == "pause":
        assert stopped.state == "paused"
        assert start(router, resume=True).state == "done"
    else:
        assert stopped.state == "cancelled"
        with pytest.raises(JobRefused, match="no unfinished job"):
            start(router, resume=True)
        rows = sum(len(all_rows(router, f"to_{table}")) for table in ("kind", "item", "part", "loose"))
        assert rows == stopped.rows


# -- moves ----------------------------------------------------------------------------------------------------------


def test_partitions_move_meanwhile(router: Router) -> None:
    """Each worker's map goes stale again and again, at the source and at the sink."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    choose = random.Random(seed)
    stop = threading.Event()
    moved: list[int] = []
    failures: list[BaseException] = []

    def move() -> None:
        while not stop.is_set():
            partition = choose.randrange(8)
            here = router.shard_map.owner(partition).name
            try:
                move_partition(router, partition, "s1" if here == "s0" else "s0")
                moved.append(partition)
            except MoveError as error:
                # A chunk was between its two phases just now.
                if not (error.retryable or "prepared transaction" in str(error)):
                    failures.append(error)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        with Router(router.config, listen=False) as stale:
            done = start(stale, options=replace(OPTIONS, chunk_rows=10, workers=2))
    finally:
        stop.set()
        mover.join()
    assert not failures
    assert done.state == "done"
    assert moved
    check_copied(router)


def test_a_move_between_death_and_resume(router: Router, place_urls: list[str]) -> None:
    assert in_process(place_urls, fault="chunk-30-decided") == -9
    from shardpool.bulk import resolve_loads

    resolve_loads(router.catalog, router.engines, list(router.shard_map.shards), older_than=0)
    for partition in range(8):
        here = router.shard_map.owner(partition).name
        move_partition(router, partition, "s1" if here == "s0" else "s0")
    assert start(router, resume=True).state == "done"
    check_copied(router)


# -- bad rows -------------------------------------------------------------------------------------------------------


@pytest.fixture
def poisoned(router: Router) -> Any:
    """Three items whose copies are refused."""
    keys = (100, 333, 571)
    for key in keys:
        router.execute(key, "UPDATE item SET note = :note WHERE id = :id", {"note": BAD_NOTE, "id": key})
    yield keys
    for key in keys:
        router.execute(key, "UPDATE item SET note = 'good again' WHERE id = :id", {"id": key})


ITEMS = (("kind", 0), ("item", 1))


def test_a_bad_row_stops_the_job(router: Router, poisoned: tuple[int, ...]) -> None:
    with pytest.raises(JobFailed, match=r"item/p000\d \(id\)=\((100|333|571)\): 23514: to_item_note_check") as caught:
        start(router, CopyWork(router.config, ITEMS))
    assert isinstance(caught.value.__cause__, BadRows)
    for key in poisoned:
        router.execute(key, "UPDATE item SET note = 'mended' WHERE id = :id", {"id": key})
    assert start(router, CopyWork(router.config, ITEMS), resume=True).state == "done"
    assert len(all_rows(router, "to_item")) == 700


def test_bad_rows_are_left_out_and_told(router: Router, poisoned: tuple[int, ...], tmp_path: Path) -> None:
    options = replace(OPTIONS, max_rejected=3, rejects=str(tmp_path / "rejects"))
    done = start(router, CopyWork(router.config, ITEMS), options=options)
    assert (done.rejected, done.rows) == (3, 700 + 3 - 3)
    lines = [line for path in sorted((tmp_path / "rejects").iterdir()) for line in path.read_text().splitlines()]
    told = [json.loads(line) for line in lines]
    assert sorted(int(it["source"].split("(")[-1][:-1]) for it in told) == list(poisoned)
    assert {it["reason"] for it in told} == {"23514: to_item_note_check"}
    assert len(all_rows(router, "to_item")) == 697


def test_more_bad_rows_than_allowed(router: Router, poisoned: tuple[int, ...], tmp_path: Path) -> None:
    options = replace(OPTIONS, max_rejected=2, rejects=str(tmp_path))
    with pytest.raises(JobFailed, match="may be left out"):
        start(router, CopyWork(router.config, ITEMS), options=options)


def test_an_unknown_executor_is_refused(router: Router) -> None:
    with pytest.raises(JobRefused, match="none of threads"):
        start(router, executor="fibres")


# -- two attempts, and a server that dies ---------------------------------------------------------------------------


def test_two_attempts_at_one_chunk_write_it_once(router: Router, place_urls: list[str]) -> None:
    """A worker that was thought dead goes on beside its successor."""
    assert in_process(place_urls, fault="chunk-1-written") == -9
    job = JobJournal(router.catalog).find("copy")
    assert job is not None
    work = CopyWork(router.config).opened(router)
    work.sink.prepare(job.id)
    chunks = [it for it in JobJournal(router.catalog).chunks(job.id) if it.table == "loose"]

    def attempt(chunk: Chunk, outcomes: list[str]) -> None:
        batches, _ = work.transform(work.source.read(chunk))
        barrier.wait(10)
        try:
            work.sink.write(Ticket(job.id, chunk), batches, [])
            outcomes.append("written")
        except (ChunkDone, LoadInDoubt, LoadUndone) as error:
            outcomes.append(type(error).__name__)

    found: list[str] = []
    for chunk in chunks:
        barrier = threading.Barrier(2)
        outcomes: list[str] = []
        threads = [threading.Thread(target=attempt, args=(chunk, outcomes)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count("written") <= 1
        assert len(outcomes) == 2
        found += outcomes
    assert found.count("written") >= 1
    assert start(router, resume=True).state == "done"
    check_copied(router)


def test_a_chunk_that_is_there_is_no_bad_row(router: Router, place_urls: list[str], tmp_path: Path) -> None:
    """Its rows are in the way of themselves: a cluster that lost a result runs the chunk again."""
    assert in_process(place_urls, fault="chunk-40-committed") == -9
    job = JobJournal(router.catalog).find("copy")
    assert job is not None
    name = CopyWork(router.config, token="again")
    work = name.opened(router)
    work.sink.prepare(job.id)
    done = work.sink.done(job.id)
    chunks = [it for it in JobJournal(router.catalog).chunks(job.id) if it.number in done and it.table == "part"]
    assert chunks
    for chunk in chunks:
        for allowed in (0, 1000):
            ticket = Ticket(job.id, chunk, allowed, str(tmp_path))
            with serving(name, work):
                assert run_chunk(name, ticket, PATIENCE) == done[chunk.number]
    assert list(tmp_path.iterdir()) == []


def test_a_shard_is_killed_and_starts_again() -> None:
    # A server that recovers beside others takes its time.
    patience = replace(OPTIONS.patience, attempts=300)
    options = replace(OPTIONS, chunk_rows=20, workers=2, patience=patience)
    with LocalCluster(shards=2, partitions=1) as cluster:
        config = config_of([cluster.url(name) for name in cluster.names])
        Router.initialise(config)
        with Router(config, listen=False) as router:
            make_tables(router, 300)
            killed = threading.Event()

            def kill() -> None:
                while not KeyspaceSink(router).done(job_id(router)):
                    pass
                cluster.kill("s1")
                killed.set()
                cluster.start("s1")

            killer = threading.Thread(target=kill)
            killer.start()
            done = start(router, options=options)
            killer.join()
            assert killed.is_set()
            assert done.state == "done"
            check_copied(router)


def job_id(router: Router) -> uuid.UUID:
    """The id of the job, as soon as there is one."""
    while (found := JobJournal(router.catalog).find("copy")) is None:
        pass
    return found.id


# -- held back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["latency", "lag"])
def test_a_job_is_held_back_while_the_servers_are_slow(
    router: Router, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Chunks trickle meanwhile; it goes on when the servers are quick again."""
    monkeypatch.setattr(throttle, "INTERVAL", 0.01)
    monkeypatch.setattr(throttle, "LONGEST_WAIT", 60.0)
    slow, quick = ((0.6, 0.0) if limit == "latency" else (0.1, 6.0)), (0.1, 0.0)
    state, asked = [slow], list[Watcher]()

    def probe(watcher: Watcher) -> tuple[float, float]:
        asked.append(watcher)
        return state[-1]

    monkeypatch.setattr(throttle, "probe", probe)
    with throttle.watching(router.engines, ["s0", "s1"], RateLimits(0, 0.5, 5.0), "test") as held:
        eventually(lambda: len(asked) > 4 and not held.ready())
        done: list[Any] = []
        record = JobJournal(router.catalog)
        thread = threading.Thread(target=lambda: done.append(start(router, throttle=held)))
        thread.start()
        eventually(lambda: any(it.progress.get("chunks") for it in record.all()))
        before = len(asked)
        eventually(lambda: len(asked) > before + 50)
        assert not done
        assert all_rows(router, "to_item") == []
        state.append(quick)
        thread.join()
    assert done[0].state == "done"
    check_copied(router)


def test_a_rate_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(throttle, "time", SimpleNamespace(monotonic=lambda: now[0]))
    held = throttle.Throttle(RateLimits(max_rate=1000))
    assert held.ready()
    held.count(5000)
    assert not held.ready()
    now[0] += 5.0
    assert held.ready()
