"""The user's own functions: ``file.py:name`` beside the job file, over rows or over Arrow tables."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shardpool.bulk.arrow import from_arrow, to_arrow
from shardpool.bulk.chunk import Record, Rejected, Rows
from shardpool.bulk.python_rows import python_rows
from shardpool.bulk.rows import RowWriter, columns_of_rows
from shardpool.errors import BadRow, JobRefused
from shardpool.topology.tables import Table


@dataclass(frozen=True)
class FunctionAt:
    """Where a function is, and a digest of its file: a resumed job must run the same one."""

    path: Path
    name: str
    kind: str
    digest: str

    def load(self) -> Callable[[Any], Any]:
        """Return the function. Raise `JobRefused` if there is none, or its file does not run."""
        spec = importlib.util.spec_from_file_location(f"shardpool_job_{self.path.stem}", self.path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise JobRefused(f"{self.path} does not run: {type(error).__name__}: {error}") from error
        function = getattr(module, self.name, None)
        if not callable(function):
            raise JobRefused(f"{self.path} has no function {self.name}")
        return function  # type: ignore[no-any-return]


def find_function(directory: Path, text: str, kind: str) -> FunctionAt:
    """Return the function that ``file.py:name`` names. Raise `JobRefused`."""
    file, _, name = text.rpartition(":")
    path = directory / file
    if not file or not path.is_file():
        raise JobRefused(f"transform.{kind} is file.py:function; there is no file {str(path)!r}")
    return FunctionAt(path, name, kind, hashlib.sha256(path.read_bytes()).hexdigest())


class Apply:
    """The transform: a function from the rows of a chunk (a list of mappings) to rows, or from a table to a table, of
    Arrow or of Polars.

    If it raises, it is asked again row by row; rows for which it raises again are left out, and told.
    """

    def __init__(self, function: FunctionAt, target: Table) -> None:
        self._function, self._kind, self._target = function.load(), function.kind, target
        if self._kind == "polars":
            load_polars()

    def __call__(self, rows: Rows) -> tuple[list[Rows], list[Rejected]]:
        try:
            return self._made(rows, rows.records, None), []
        except Exception as error:
            if isinstance(error, JobRefused):
                raise
        made: list[Rows] = []
        rejected = []
        for index, record in enumerate(rows.records):
            try:
                made += self._made(rows, [record], index)
            except Exception as error:  # the user's own code: whatever it raises is about this row
                rejected.append(Rejected(rows.describe(index), _reason(error)))
        return made, rejected

    def _made(self, rows: Rows, records: Sequence[Record], origin: int | None) -> list[Rows]:
        made = self._run(rows, records)
        if not isinstance(made, list):
            written = from_arrow(made)
            if written is not None:
                return self._batch(rows, made.column_names, written, origin) if made.num_rows else []
            made = made.to_pylist()
        columns, every = columns_of_rows(made, ())
        if not columns:
            return []
        writer = RowWriter(replace(self._target, key=(), key_types=()), columns, [0])
        return self._batch(rows, columns, writer.records(list(every)), origin)

    @staticmethod
    def _batch(rows: Rows, columns: Sequence[str], written: list[Record], origin: int | None) -> list[Rows]:
        return [replace(rows, columns=tuple(columns), records=written, origins=[origin] * len(written), types=())]

    def _run(self, rows: Rows, records: Sequence[Record]) -> Any:
        """Return what the function makes: a list of rows, or an Arrow table."""
        if self._kind == "arrow":
            return self._function(to_arrow(rows.types, records))
        if self._kind == "polars":
            return self._function(load_polars().from_arrow(to_arrow(rows.types, records))).to_arrow()
        return list(self._function(python_rows(rows.types, records)))


def load_polars() -> Any:
    """Return the module. Raise `JobRefused` if it is not installed."""
    try:
        import polars
    except ImportError as error:
        raise JobRefused("transform.polars needs the extra: pip install 'shardpool[polars]'") from error
    return polars


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, BadRow) else f"{type(error).__name__}: {error}"
