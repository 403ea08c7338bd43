"""Which of several partitions the rows of a table go to, when one is cut into them: by the hash of their keys.

PostgreSQL does not have the hash. So rows and keys pass through here as COPY's text, and are sorted out as those of a
bulk load are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from shardpool.bulk.fields import Fields
from shardpool.bulk.layout import COPY_TEXT
from shardpool.bulk.records import Block
from shardpool.bulk.route import RecordRouter
from shardpool.errors import BadRow, MoveError
from shardpool.topology.names import unquote
from shardpool.topology.tables import Table

#: Rows are sorted out in blocks of so many bytes.
BLOCK = 1 << 17


class Spread:
    """Sorts out the rows of *table* that have the *columns* (quoted or not), by ranges of hashes.

    *bounds* are ``(low, high)``, one after another without a gap.
    """

    def __init__(self, table: Table, columns: Sequence[str], bounds: Sequence[tuple[int, int]]) -> None:
        self._table, self._bounds = table, tuple(bounds)
        lows = [0, *(low for low, _ in bounds), bounds[-1][1]]  # places 0 and n + 1 are outside
        names = [unquote(column) for column in columns]
        self._router = RecordRouter(table, lows, COPY_TEXT, Fields(COPY_TEXT), names, table.name)

    def into(self, pipes: Sequence[IO[bytes]]) -> _Sorter:
        """Return a file that takes what COPY TO writes, and puts each row into its pipe. Its `flush` must be called."""
        return _Sorter(self, pipes)

    def check(self, place: int) -> _Sorter:
        """Return a file that takes rows of the partition *place*, and raises `MoveError` for one of another."""
        return _Sorter(self, [None if at != place else _Nowhere() for at in range(len(self._bounds))])

    def places(self, records: list[bytes]) -> list[int]:
        """Return the place of each row. Raise `MoveError` for a key that is outside, or is none."""
        block = Block(records, 1)
        try:
            self._router.route(block)
        except BadRow as error:
            raise MoveError(f"table {self._table.name}: a row has no valid partition key: {error}") from error
        if 0 in block.places or len(self._bounds) + 1 in block.places:
            wrong = next(at for at, place in enumerate(block.places) if not 0 < place <= len(self._bounds))
            raise self.misplaced(records[wrong])
        return [place - 1 for place in block.places]

    def misplaced(self, record: bytes) -> MoveError:
        shown = record[:80].decode(errors="replace")
        return MoveError(
            f"table {self._table.name}: a row is in a partition that its key {', '.join(self._table.key)} does not "
            f"belong to: {shown!r}. It was written past the router: move it to its partition, or delete it"
        )


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)

    def flush(self) -> None:
        """Nothing is kept."""


class _Sorter:
    """The file of one COPY. A pipe that is None takes no rows."""

    def __init__(self, spread: Spread, pipes: Sequence[IO[bytes] | _Nowhere | None]) -> None:
        self._spread, self._pipes = spread, pipes
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, data: bytes | memoryview) -> int:
        self._pieces.append(bytes(data))
        self._size += len(data)
        if self._size >= BLOCK:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Sort out what has arrived; COPY writes whole rows, and a newline within one as two characters."""
        records = b"".join(self._pieces).split(b"\n")
        self._pieces, self._size = [records.pop()], 0
        if not records:
            return
        groups: list[list[bytes]] = [[] for _ in self._pipes]
        for place, record in zip(self._spread.places(records), records, strict=True):
            groups[place].append(record)
        for pipe, group in zip(self._pipes, groups, strict=True):
            if group and pipe is None:
                raise self._spread.misplaced(group[0])
            if group and pipe is not None:
                pipe.write(b"\n".join(group) + b"\n")
