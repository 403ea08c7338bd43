"""The reject files: one of JSON lines per chunk that left rows out, ``chunk-000012.jsonl``.

A file is complete before its chunk is committed, and a chunk that is done again replaces it: so the files tell exactly
what the ledger counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shardpool.bulk.chunk import Rejected, Ticket


def write_rejects(ticket: Ticket, rejects: Sequence[Rejected]) -> None:
    """Write the file of a chunk; without rejects, remove what an earlier attempt has written. Raise `OSError`."""
    if ticket.rejects is None:
        return
    path = Path(ticket.rejects) / f"chunk-{ticket.chunk.number:06d}.jsonl"
    if not rejects:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"source": it.source, "reason": it.reason}, ensure_ascii=False) + "\n" for it in rejects]
    replace_file(path, "".join(lines).encode())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a crash. Raise `OSError`."""
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name when the block has ended well, and is on the disk then."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
