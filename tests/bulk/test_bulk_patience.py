"""How often a chunk is tried: moves beneath it are no faults."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest

from shardpool.bulk.worker import Patience, retrying
from shardpool.errors import StalePlacement

PATIENCE = Patience(attempts=3, first=0.001, longest=0.001, moving=30.0)


def tried(patience: Patience, reasons: Iterator[Exception]) -> int:
    """Work that fails for each of the *reasons*; return how often it was recovered from."""
    recovered: list[object] = []

    def work() -> int:
        for reason in reasons:
            raise reason
        return len(recovered)

    return retrying(patience, recovered.append, work)


def test_moves_are_not_counted() -> None:
    moves = [StalePlacement("moved")] * 5
    fault = psycopg2.OperationalError("cut")
    assert tried(PATIENCE, iter([*moves, fault, fault, StalePlacement("moved"), fault])) == 9


def test_faults_are_counted() -> None:
    with pytest.raises(psycopg2.OperationalError):
        tried(PATIENCE, iter([psycopg2.OperationalError("cut")] * 3))


def test_moves_without_end() -> None:
    with pytest.raises(StalePlacement):
        tried(Patience(moving=0.05), iter(lambda: StalePlacement("moved"), None))


def test_what_does_not_pass() -> None:
    with pytest.raises(ValueError):
        tried(PATIENCE, iter([ValueError("no")]))
