"""Jobs whose partitions are split, merged and pinned while they run, or between a death and the resume."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from shardpool import Router
from shardpool.bulk import keyspace_source, resolve_loads
from shardpool.bulk.chunk import Chunk
from shardpool.errors import MoveError
from shardpool.moves import change_partitions, plan_merge, plan_split
from tests.jobs.job_tools import OPTIONS, all_rows, check_copied, in_process, replace, start


def change_all(router: Router) -> None:
    """Split partitions, and then merge each upper half with its right neighbour, so that few are what they were."""
    for partition in router.shard_map.partitions[:2]:
        change_partitions(router, plan_split(router, partition.id))
    numbers = [it.id for it in router.shard_map.partitions]
    for left, right in zip(numbers[1::2], numbers[2::2], strict=False):
        change_partitions(router, plan_merge(router, [left, right]))


@pytest.mark.parametrize("careless", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_changes_between_death_and_resume(
    router: Router, place_urls: list[str], careless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: rows of a larger partition would be read for each of those that were merged into it."""
    assert in_process(place_urls, fault="chunk-9-decided") == -9
    resolve_loads(router.catalog, router.engines, list(router.shard_map.shards), older_than=0)
    change_all(router)
    if careless:
        monkeypatch.setattr(keyspace_source.KeyspaceSource, "within", lambda self, chunk, partition, records: records)
        with pytest.raises(Exception, match="23505"):
            start(router, resume=True)
    else:
        assert start(router, resume=True).state == "done"
        check_copied(router)


def test_changes_meanwhile(router: Router) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    choose, stop, done, failures = random.Random(seed), threading.Event(), list[Any](), list[Any]()

    def change() -> None:
        while not stop.is_set():
            found = router.shard_map.partitions
            at = choose.randrange(len(found) - 1)
            try:
                if len(found) > 8:
                    plan = plan_merge(router, [found[at].id, found[at + 1].id])
                else:
                    plan = plan_split(router, found[at].id, to=choose.choice(["s0", "s1"]))
                done.append(change_partitions(router, plan))
            except MoveError as error:
                # A chunk was between its two phases just now; or the partition is one of a pinned key.
                if not (error.retryable or "prepared transaction" in str(error) or "cannot be split" in str(error)):
                    failures.append(error)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        with Router(router.config, listen=False) as stale:
            state = start(stale, options=replace(OPTIONS, chunk_rows=20, workers=2)).state
    finally:
        stop.set()
        thread.join()
    assert not failures and state == "done" and done
    check_copied(router)


@pytest.mark.parametrize("raw", ["binary", "csv"])
def test_rows_as_the_server_writes_them(router: Router, raw: keyspace_source.Raw) -> None:
    """A chunk of a partition that is part of a larger one by now has its own rows only, which takes a look at them."""
    source = keyspace_source.KeyspaceSource(router, {"part": 0}, raw=raw)
    chunks = [Chunk(at, it.name, it.table, 0, it.partition) for at, it in enumerate(source.streams())]
    before = [len(source.read(chunk).records) for chunk in chunks]
    change_all(router)
    found = [source.read(chunk) for chunk in chunks]
    assert [len(rows.records) for rows in found] == before
    assert {rows.as_text is None for rows in found} == {True, False}
    assert sum(before) == len(all_rows(router, "part"))
