"""How a load ends before its time: SIGKILL at each step, Ctrl-C at any moment, a failure while others wait."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardpool.bulk import commit, lanes, resolve_loads
from shardpool.errors import BadRow
from tests.bulk.bulk_tools import Shop, connect, wait_for

ROWS = 1000

#: Fault point -> whether the load is then decided.
FAULTS = {"prepared-one": False, "prepared": False, "decided": True, "committed-one": True}

#: Sessions at work; a server may go on with what its client had sent a moment after that died.
BUSY = (
    "SELECT FROM pg_stat_activity WHERE backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid()"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "items.csv"
    path.write_text("id,name\n" + "".join(f"{number},n{number}\n" for number in range(ROWS)))
    return path


def run(shop: Shop, file: Path, fault: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("load_in_process.py")
    paths = os.pathsep.join([str(script.parent), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, str(script), json.dumps(shop.urls), str(file)],
        env={**os.environ, "PYTHONPATH": paths, "SHARDPOOL_FAULT": fault},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_at_any_step_it_is_all_or_nothing(shop: Shop, file: Path, fault: str) -> None:
    committed = FAULTS[fault]
    ended = run(shop, file, f"{fault}:kill9")
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    wait_for(lambda: not any(shop.rows_on(shard, BUSY) for shard in shop.urls))
    left = len(shop.prepared())
    assert left == {"prepared-one": left, "prepared": 2, "decided": 2, "committed-one": 1}[fault]
    assert left >= 1

    resolved = resolve_loads(shop.catalog, shop.engines, shop.urls, older_than=0)
    assert [one.committed for one in resolved] == [committed] * left
    assert len(shop.rows("item")) == (ROWS if committed else 0)
    assert shop.prepared() == []
    assert resolve_loads(shop.catalog, shop.engines, shop.urls, older_than=0) == []


def test_without_a_fault_the_process_loads(shop: Shop, file: Path) -> None:
    ended = run(shop, file, "elsewhere:kill9")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{ROWS}\n", "")
    assert len(shop.rows("item")) == ROWS


def forbidden(*arguments: object) -> None:
    raise AssertionError("not needed here")


class Blocker:
    """Holds a lock on a partition's table, so that a load must wait there."""

    def __init__(self, shop: Shop, shard: str) -> None:
        self.shop, self.shard = shop, shard
        placement = next(one for one in shop.topology.shard_map.placements if one.shard == shard)
        self.connection = connect(shop.urls[shard])
        self.connection.autocommit = False
        with self.connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {placement.partition.schema}.item IN ACCESS EXCLUSIVE MODE")

    def __enter__(self) -> Blocker:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    def wait(self, shop: Shop) -> None:
        """Return once somebody waits for the lock. Uses a connection of its own: it may run in a thread."""
        direct = connect(shop.urls[self.shard])
        try:

            def blocked() -> bool:
                with direct.cursor() as cursor:
                    cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
                    return bool(cursor.fetchone()[0])

            wait_for(blocked)
        finally:
            direct.close()


def interrupt_when_blocked(shop: Shop, blocker: Blocker) -> threading.Thread:
    main = threading.main_thread().ident
    assert main is not None

    def run() -> None:
        blocker.wait(shop)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("batch_bytes", [1 << 20, 1000])
def test_interrupted_while_a_shard_blocks(
    shop: Shop, file: Path, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With large batches the load waits for the lanes to end, with small ones for room in a queue. Cancelling helps."""
    monkeypatch.setattr(lanes, "cut", forbidden)
    with Blocker(shop, "s1") as blocker:
        thread = interrupt_when_blocked(shop, blocker)
        with pytest.raises(KeyboardInterrupt):
            shop.load("item", file, batch_bytes=batch_bytes)
        thread.join()
    assert shop.rows("item") == []


def test_interrupted_while_it_reads(shop: Shop) -> None:
    def rows() -> Iterator[tuple[Any, ...]]:
        for number in range(ROWS):
            if number == ROWS - 1:
                signal.raise_signal(signal.SIGINT)
            yield (number, "x" * 100, None, None, None)

    with pytest.raises(KeyboardInterrupt):
        shop.load("item", rows(), batch_bytes=1000)
    assert shop.rows("item") == []


@pytest.mark.parametrize("when", ["prepared", "decided", "committed-one"])
def test_interrupted_while_it_commits(shop: Shop, file: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the decision the load is rolled back; after it, it is finished first."""
    seen = []

    def fault_point(name: str) -> None:
        seen.append(name)
        if name == when and seen.count(name) == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(commit, "fault_point", fault_point)
    monkeypatch.setattr(commit, "decision", forbidden)  # what is known need not be asked
    with pytest.raises(KeyboardInterrupt):
        shop.load("item", file)
    assert len(shop.rows("item")) == (0 if when == "prepared" else ROWS)


def test_interrupted_while_the_catalog_decides(shop: Shop, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decide = commit.decide_commit
    for happened in (False, True):

        def interrupted(catalog: Any, gid: str, happened: bool = happened) -> None:
            if happened:
                decide(catalog, gid)
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(commit, "decide_commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shop.load("item", file)
        assert len(shop.rows("item")) == (ROWS if happened else 0)


def test_a_failure_does_not_wait_for_a_blocked_shard(shop: Shop, file: Path) -> None:
    bad = f"{shop.key_on('s0')},n,x\n"
    with Blocker(shop, "s1") as blocker:

        def source() -> Iterator[str]:
            yield "id,name,price\n" + "".join(f"{number},n,1\n" for number in range(ROWS))
            blocker.wait(shop)
            yield bad

        with pytest.raises(BadRow, match="column price") as caught:
            shop.load("item", Parts(source()), format="csv", batch_bytes=1000)
        assert caught.value.line == ROWS + 2
    assert shop.rows("item") == []


class Parts(io.RawIOBase):
    """A file object that yields the given parts."""

    def __init__(self, parts: Iterator[str]) -> None:
        self._parts = parts

    def read(self, size: int = -1) -> bytes:
        return next(self._parts, "").encode()


def test_a_server_that_does_not_react_loses_its_connection(
    shop: Shop, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is cancelled here: the load ends although the server goes on waiting."""
    monkeypatch.setattr(lanes, "CANCEL_PATIENCE", 0.0)
    with Blocker(shop, "s1") as blocker:
        thread = interrupt_when_blocked(shop, blocker)
        with pytest.raises(KeyboardInterrupt):
            shop.load("item", file)
        thread.join()
    # The server notices when it has the lock, and ends the abandoned transaction.
    wait_for(lambda: shop.rows_on("s1", "SELECT FROM pg_stat_activity WHERE state = 'active' AND query ~ '^SET'") == [])
    assert shop.rows("item") == []


def test_the_queue_of_a_slow_shard_is_bounded(shop: Shop) -> None:
    """While a shard blocks, the source is read only as far as the queue and the open batches hold."""
    read = 0
    main = threading.main_thread().ident
    assert main is not None

    def rows() -> Iterator[tuple[Any, ...]]:
        nonlocal read
        for number in range(100_000):
            read += 1
            yield (number, "x" * 100, None, None, None)

    def interrupt_when_it_reads_no_more() -> None:
        blocker.wait(shop)
        direct, seen, since = connect(shop.urls["s0"]), 0, 0
        with direct.cursor() as cursor:
            while since < 500:
                cursor.execute("SELECT 1")
                since = since + 1 if read == seen else 0
                seen = read
        direct.close()
        signal.pthread_kill(main, signal.SIGINT)

    with Blocker(shop, "s1") as blocker:
        thread = threading.Thread(target=interrupt_when_it_reads_no_more)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            shop.load("item", rows(), batch_bytes=5000)
        thread.join()
    assert read < 20_000
