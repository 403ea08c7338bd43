"""Traffic: threads that insert and update orders, and remember what was acknowledged and how long it took."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

from sqlalchemy.exc import SQLAlchemyError

from shardpool.cli.failures import describe
from shardpool.errors import ShardpoolError
from shardpool.router import Router

THREADS = 3
#: Seconds between two writes of a thread.
PAUSE = 0.001
#: Intervals of the timeline.
TIMELINE = 60

INSERT = (
    "insert into orders (o_orderkey, o_custkey, o_orderstatus, o_totalprice, o_orderdate, o_orderpriority, o_clerk, "
    "o_shippriority, o_comment) values (:key, :customer, 'O', :price, :day, '3-MEDIUM', 'Clerk#000000001', 0, :comment)"
)
UPDATE = "update orders set o_totalprice = o_totalprice + 1 where o_orderkey = :key"


@dataclass
class Journal:
    """What one thread has done. `latencies` are (time of the start, seconds) of acknowledged writes."""

    inserted: list[tuple[Any, ...]] = field(default_factory=list)
    updated: Counter[int] = field(default_factory=Counter)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Writers:
    """A context manager: threads write while the block runs. New orders have keys above *last_key*."""

    def __init__(self, router: Router, keys: Sequence[int], last_key: int) -> None:
        self._router = router
        self._keys = keys
        self._last_key = last_key
        self._ended = threading.Event()
        self.journals = [Journal() for _ in range(THREADS)]
        self._threads = [
            threading.Thread(target=self._run, args=(number, journal), name=f"demo-writer-{number}", daemon=True)
            for number, journal in enumerate(self.journals)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=30)

    @property
    def written(self) -> int:
        return sum(len(it.latencies) for it in self.journals)

    @property
    def errors(self) -> list[str]:
        return [error for it in self.journals for error in it.errors]

    @property
    def latencies(self) -> list[tuple[float, float]]:
        return sorted(pair for it in self.journals for pair in it.latencies)

    @property
    def inserted(self) -> list[tuple[Any, ...]]:
        return [row for it in self.journals for row in it.inserted]

    @property
    def updated(self) -> Counter[int]:
        return sum((it.updated for it in self.journals), Counter[int]())

    def _run(self, number: int, journal: Journal) -> None:
        chance = random.Random(number)
        key = self._last_key + 1 + number
        while not self._ended.wait(PAUSE):
            started = time.monotonic()
            try:
                if chance.random() < 0.5:
                    row = (key, chance.randrange(1, 1000), chance.randrange(1_000_00, 400_000_00))
                    self._insert(row, journal)
                    key += THREADS
                else:
                    self._update(chance.choice(self._keys), journal)
            except (ShardpoolError, SQLAlchemyError) as error:
                journal.errors.append(describe(error).message)
                key += THREADS
            else:
                journal.latencies.append((started, time.monotonic() - started))

    def _insert(self, row: tuple[int, int, int], journal: Journal) -> None:
        key, customer, cents = row
        price, day = Decimal(cents) / 100, date(1998, 8, 2)
        comment = "written during the rebalance"
        values = {"key": key, "customer": customer, "price": price, "day": day, "comment": comment}
        self._router.execute(key, INSERT, values)
        journal.inserted.append((key, customer, "O", price, day, "3-MEDIUM", "Clerk#000000001", 0, comment))

    def _update(self, key: int, journal: Journal) -> None:
        result: Any = self._router.execute(key, UPDATE, {"key": key})
        if result.rowcount == 1:
            journal.updated[key] += 1
        else:
            journal.errors.append(f"order {key} was not found")


def timeline(latencies: Sequence[tuple[float, float]], moving_from: float, moving_until: float) -> dict[str, Any]:
    """Return the worst latency (milliseconds, 0 for none) of the writes that began in each of some equal intervals.

    `moving` are the intervals, from .. until, in which partitions moved.
    """
    begin = latencies[0][0]
    width = (max(moving_until, latencies[-1][0]) - begin) / TIMELINE or 1.0
    worst = [0.0] * TIMELINE
    for at, seconds in latencies:
        place = min(int((at - begin) / width), TIMELINE - 1)
        worst[place] = max(worst[place], round(seconds * 1000, 3))
    moving = [min(max(int((at - begin) / width), 0), TIMELINE) for at in (moving_from, moving_until)]
    return {"interval_ms": round(width * 1000, 3), "worst_ms": worst, "moving": moving}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p99 and max in milliseconds; empty for no values."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    found = {"p50": ordered[len(ordered) // 2], "p99": ordered[int(len(ordered) * 0.99)], "max": ordered[-1]}
    return {name: round(value * 1000, 3) for name, value in found.items()}
