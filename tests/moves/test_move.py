"""Moving a partition between two servers: its rows, its tables, its clients."""

from __future__ import annotations

import pytest

from shardpool.moves import MoveProgress, move_partition
from tests.moves.move_tools import Place


def test_everything_moves_back_and_forth(place: Place) -> None:
    before = place.contents()
    seen: list[MoveProgress] = []
    for _ in range(5):
        report = move_partition(place.router, 0, place.other(0), progress=seen.append)
        assert place.owner(0) == report.target
        assert place.contents() == before
        place.assert_clean()
    assert seen
