"""Partitions that move while a job runs."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shardpool import Router
from shardpool.bulk.runner import JobProgress
from shardpool.errors import MoveError
from shardpool.moves import move_partition


@contextmanager
def moving(router: Router, seed: int) -> Iterator[Callable[[JobProgress], None]]:
    """Move partitions to and fro, from the first progress that the block tells of until it ends."""
    choose, begin, stop = random.Random(seed), threading.Event(), threading.Event()
    moved: list[int] = []
    failures: list[BaseException] = []

    def move() -> None:
        begin.wait()
        while not stop.is_set():
            placement = choose.choice(router.shard_map.placements)
            to = next(it for it in sorted(router.shard_map.shards) if it != placement.shard)
            try:
                move_partition(router, placement.partition.id, to)
                moved.append(placement.partition.id)
            except MoveError as error:
                # A chunk was between its two phases just now, or the job changed the schema.
                if not (error.retryable or re.search("prepared transaction|schema change", str(error))):
                    failures.append(error)
                    return

    mover = threading.Thread(target=move, name="mover")
    mover.start()

    def started(progress: JobProgress) -> None:
        if progress.chunks:
            begin.set()
            while not moved and mover.is_alive():
                mover.join(0.01)

    try:
        yield started
    finally:
        stop.set()
        begin.set()
        mover.join()
    print(len(moved), "moves")
    assert failures == []
    assert moved
