"""What the runner moves: chunks of a source, their rows, and what became of them.

A chunk is fixed before the first row is read, by bounds of a key, and has a number. Whoever reads it, and however
often, it is the same rows. So chunks can be worked off in any order, anywhere, and twice; the ledger beside the rows
that were written lets each count once.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

from shardpool.topology.tables import Column

Ends = TypeVar("Ends", covariant=True)

#: A row as COPY's text format has it, without the newline.
Record = bytes


@dataclass(frozen=True)
class Stream:
    """A part of a source that is cut into chunks by itself: a table's rows in one partition. Stages run in order."""

    name: str
    table: str
    stage: int = 0
    partition: int | None = None


@dataclass(frozen=True)
class Chunk:
    """The rows of a stream with ``after < key <= upto``, in text; None is open."""

    number: int
    stream: str
    table: str
    stage: int
    partition: int | None
    after: tuple[str, ...] | None = None
    upto: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"chunk {self.number} ({self.stream})"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Chunk:
        bounds = {name: None if document[name] is None else tuple(document[name]) for name in ("after", "upto")}
        return cls(**{**document, **bounds})


@dataclass
class Rows:
    """Rows of one table, on their way. `origins` are their indexes in the chunk as it was read; None for rows that were
    made of several. `describe` names the row of an index, for the reject file.
    """

    table: str
    columns: tuple[str, ...]
    records: list[Record]
    describe: Callable[[int], str]
    origins: Sequence[int | None] | None = None
    #: The columns' types, where the source knows them.
    types: Sequence[Column] = ()
    #: Rows that the source itself could not read.
    rejects: Sequence[Rejected] = ()
    #: Where `records` are as the sink wants them, binary (`bulk.binary`) or lines of CSV: reads the same rows as text.
    as_text: Callable[[], Rows] | None = None

    def source_of(self, index: int) -> str:
        """Return which row of the source the row *index* was."""
        origin = index if self.origins is None else self.origins[index]
        return f"a row made of {self.table}" if origin is None else self.describe(origin)


@dataclass(frozen=True)
class Rejected:
    """A row that was left out: where it came from, and why. Never its values, which may be what must not be kept."""

    source: str
    reason: str


@dataclass(frozen=True)
class Tally:
    """What became of a chunk, or of many: rows written, their bytes as COPY data, rows left out."""

    rows: int = 0
    bytes: int = 0
    rejected: int = 0
    rejects: tuple[Rejected, ...] = field(default=(), compare=False)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.rows + other.rows, self.bytes + other.bytes, self.rejected + other.rejected)


class Source(Protocol):
    """Where rows come from."""

    def streams(self) -> list[Stream]: ...

    def bounds(self, stream: Stream, chunk_rows: int) -> list[tuple[str, ...]]:
        """Return the keys that cut the stream: chunks go from one to the next, the last has no end."""

    def read(self, chunk: Chunk) -> Rows: ...

    def sample(self, stream: Stream, rows: int) -> Rows:
        """Return up to *rows* of a stream, for a person to look at."""

    def shard_of(self, chunk: Chunk) -> str:
        """Return what the limit on concurrent chunks counts by: the shard that is read."""


@dataclass(frozen=True)
class Ticket:
    """What a sink needs to know to enter a chunk: the job, the chunk, how many more rows it may leave out, and the
    directory that is told of them.
    """

    job: uuid.UUID
    chunk: Chunk
    may_reject: int = 0
    rejects: str | None = None


class Sink(Protocol):
    """Where rows go. `write` is atomic with the ledger's entry."""

    def prepare(self, job: uuid.UUID) -> None:
        """Be ready for chunks of *job*; finish what a process that died has left."""

    def done(self, job: uuid.UUID) -> dict[int, Tally]:
        """Return the ledger: number of each chunk that is written."""

    def write(self, ticket: Ticket, batches: Sequence[Rows], rejects: Sequence[Rejected]) -> Tally:
        """Write the rows of a chunk, of which *rejects* were left out before. Raise `ChunkDone` if they are there."""

    def settle(self, ticket: Ticket) -> None:
        """Find out and finish what an attempt with an unknown outcome has left."""

    def finish(self, job: uuid.UUID) -> None:
        """The job is done: remove what was needed only until now."""

    def forget(self, job: uuid.UUID) -> None:
        """The journal says that the job has ended: nobody will ask for its chunks any more."""


Transform = Callable[[Rows], tuple[list[Rows], list[Rejected]]]


def unchanged(rows: Rows) -> tuple[list[Rows], list[Rejected]]:
    """The transform that does nothing."""
    return [rows], []


@dataclass(frozen=True)
class Opened:
    """The three ends of a job in this process."""

    source: Source
    sink: Sink
    transform: Transform = unchanged
    #: Called when a partition is not where it was thought to be.
    refresh: Callable[[], None] = lambda: None


class Sent(Protocol[Ends]):
    """Work as it is sent to another process: small, and able to open there what it needs. `token` tells works apart."""

    @property
    def token(self) -> str: ...

    def open(self) -> AbstractContextManager[Ends]: ...


#: A job as it is sent to another process.
Work = Sent[Opened]
