"""Sources of bytes: paths, gzip files, binary and text file objects, all read through one `Stream`."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from shardpool.errors import LoadError


@dataclass(frozen=True)
class Stream:
    """`read(size)` returns up to about size bytes, b"" at the end. `position` and `total`, in bytes of the source as it
    is stored (compressed, if it is), say how far that is; total is None when nobody knows.
    """

    name: str
    read: Callable[[int], bytes]
    position: Callable[[], int]
    total: int | None = None


def source_name(source: object) -> str:
    """Return what errors call a source: its path, a file object's name, or ``<stream>``."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<stream>"


@contextmanager
def open_stream(source: str | os.PathLike[str] | IO[Any]) -> Iterator[Stream]:
    """Open a path, or read from a file object, which stays the caller's. Raise `OSError` if a path cannot be opened."""
    name = source_name(source)
    if not isinstance(source, str | os.PathLike):
        reader = _ObjectReader(source, name)
        yield Stream(name, reader.read, lambda: reader.position)
        return
    with ExitStack() as stack:
        raw = stack.enter_context(Path(source).open("rb", buffering=0))
        status = os.fstat(raw.fileno())
        if not stat.S_ISREG(status.st_mode):
            reader = _ObjectReader(raw, name)
            yield Stream(name, reader.read, lambda: reader.position)
        elif name.lower().endswith(".gz"):
            unzipped = stack.enter_context(gzip.GzipFile(fileobj=raw))
            yield Stream(name, _checked(unzipped, name), raw.tell, status.st_size)
        else:
            yield Stream(name, raw.read, raw.tell, status.st_size)


def _checked(unzipped: io.BufferedIOBase, name: str) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        try:
            return unzipped.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise LoadError(f"{name}: damaged gzip data: {error}") from error

    return read


class _ObjectReader:
    """Reads a file object that may yield bytes or text, and counts the bytes."""

    def __init__(self, source: Any, name: str) -> None:
        self._source = source
        self._name = name
        self.position = 0

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        if isinstance(data, str):
            try:
                data = data.encode()
            except UnicodeEncodeError as error:
                raise LoadError(f"{self._name}: the text is not valid Unicode: {error}") from error
        if not isinstance(data, bytes):
            raise LoadError(f"{self._name}: read() returned {type(data).__name__}, expected bytes or str")
        self.position += len(data)
        return data
