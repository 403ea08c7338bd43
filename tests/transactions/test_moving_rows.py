"""Writes over several partitions miss no row to which another transaction gives a new partition key meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import pytest

from shardpool import Router, Sharded, parse_config
from shardpool.executor import moving_rows
from tests.support.backends import databases, plain_connection
from tests.support.waiting import eventually

WAITING = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
    "AND backend_type = 'client backend'"
)


@dataclass(frozen=True)
class Boxes:
    router: Router
    direct: list[Any]
    #: Two rows that are there, on the last shard and on the first, and a free key on each.
    late: int
    early: int
    free_late: int
    free_early: int

    def rows(self) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.router.query("SELECT id, v FROM boxes ORDER BY id")]

    def somebody_waits(self) -> bool:
        for connection in self.direct:
            with connection.cursor() as cursor:
                cursor.execute(WAITING)
                if cursor.fetchall():
                    return True
        return False


@pytest.fixture(scope="module")
def opened(server_urls: list[str]) -> Iterator[Boxes]:
    with databases(server_urls[:2]) as urls, ExitStack() as stack:
        shards = {f"s{number}": {"url": url} for number, url in enumerate(urls)}
        config = parse_config({"keyspace": "shop", "partitions": 4, "catalog": urls[0], "shards": shards}, "test")
        Router.initialise(config)
        direct = [stack.enter_context(closing(plain_connection(url))) for url in urls]
        with Router(config, listen=False) as router:
            router.create_schema("CREATE TABLE boxes (id int PRIMARY KEY, v int NOT NULL)", {"boxes": Sharded("id")})
            keys: dict[str, list[int]] = {"s0": [], "s1": []}
            for key in range(100):
                keys[router.shard_of(key).name].append(key)
            yield Boxes(router, direct, keys["s1"][0], keys["s0"][0], keys["s1"][1], keys["s0"][1])
            assert all(stats.in_use == 0 for stats in router.stats().pools.values())


@pytest.fixture
def boxes(opened: Boxes) -> Boxes:
    opened.router.query("DELETE FROM boxes")
    opened.router.query("INSERT INTO boxes VALUES (:a, 0), (:b, 0)", {"a": opened.late, "b": opened.early})
    return opened


#: From the last shard to the first, which the other write has seen by then, and the other way.
DIRECTIONS: list[Callable[[Boxes], tuple[int, int]]] = [
    lambda boxes: (boxes.late, boxes.free_early),
    lambda boxes: (boxes.early, boxes.free_late),
]
#: Each partition's own, rows that are found first, and a write in WITH.
CHANGES = ["UPDATE boxes SET v = v + 1", "UPDATE boxes SET v = v + 1 WHERE v <= (SELECT max(v) FROM boxes)"]
IN_WITH = ["WITH w AS (UPDATE boxes SET v = v + 1 RETURNING v) SELECT v FROM w"]
DELETES = ["DELETE FROM boxes WHERE v = 0", "DELETE FROM boxes WHERE v = (SELECT min(v) FROM boxes)"]
MOVE = "UPDATE boxes SET id = :new WHERE id = :old"


@pytest.mark.parametrize("old_new", DIRECTIONS)
@pytest.mark.parametrize("words", CHANGES + IN_WITH + DELETES)
def test_rows_that_move_are_found_where_they_are_then(
    boxes: Boxes, words: str, old_new: Callable[[Boxes], tuple[int, int]]
) -> None:
    assert beside_a_move(boxes, words, *old_new(boxes)) == 2
    rows = boxes.rows()
    assert rows == [] if words in DELETES else [v for _, v in rows] == [1, 1]


def beside_a_move(boxes: Boxes, words: str, old: int, new: int) -> int:
    """The number of rows that are written beside a transaction which gives *old* a new key, and waits for nobody."""
    with ThreadPoolExecutor(1) as threads:
        with boxes.router.transaction() as tx:
            assert tx.query(MOVE, {"old": old, "new": new}).rowcount == 1  # type: ignore[attr-defined]
            writing = threads.submit(boxes.router.query, words)
            eventually(boxes.somebody_waits, "the write waits for the move")
        return int(writing.result(30).rowcount)  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", CHANGES + IN_WITH)
@pytest.mark.parametrize("move", [MOVE, "UPDATE boxes SET id = :new WHERE v = 1 AND id = abs(:old)"])
def test_a_move_waits_for_writes_that_look_for_rows(boxes: Boxes, words: str, move: str) -> None:
    with ThreadPoolExecutor(1) as threads:
        with boxes.router.transaction() as tx:
            tx.query(words)
            moving = threads.submit(boxes.router.query, move, {"old": boxes.late, "new": boxes.free_early})
            eventually(boxes.somebody_waits, "the move waits for the write")
            tx.query(words)
        assert moving.result(30).rowcount in (0, 1)  # type: ignore[attr-defined]
    assert [v for _, v in boxes.rows()] == [2, 2]


def test_writes_that_name_a_key_do_not_wait(boxes: Boxes) -> None:
    with boxes.router.transaction() as tx:
        tx.query(MOVE, {"old": boxes.late, "new": boxes.free_early})
        assert boxes.router.query("UPDATE boxes SET v = 5 WHERE id = :id", {"id": boxes.early}).rowcount == 1  # type: ignore[attr-defined]
        boxes.router.query("INSERT INTO boxes VALUES (200, 1), (201, 1), (202, 1)")
    assert len(boxes.rows()) == 5


def test_without_the_lock_a_row_is_missed(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving_rows, "_lock", lambda transaction, table, how: "SELECT 1")
    monkeypatch.setattr("shardpool.executor.writes.alone", lambda transaction, steps: False)
    assert beside_a_move(boxes, CHANGES[0], boxes.late, boxes.free_early) == 1
    assert sorted(v for _, v in boxes.rows()) == [0, 1]
