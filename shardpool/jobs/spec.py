"""Job files: TOML, validated by the JSON Schema of their kind. A spec may also be given as a mapping."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardpool.bulk.runner import RunOptions
from shardpool.bulk.throttle import RateLimits
from shardpool.bulk.worker import Patience
from shardpool.config import validate_document
from shardpool.errors import ConfigError, JobRefused
from shardpool.router import Router

KINDS = ("anonymise", "etl", "import", "export", "replicate")
#: What is added to a document when its job begins, and stays.
FIXED = ("window", "originals")


@dataclass(frozen=True)
class JobSpec:
    """A validated job. `directory` is what paths in it are relative to."""

    source: str
    directory: Path
    document: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.document["name"])

    @property
    def kind(self) -> str:
        return str(self.document["job"])

    @property
    def executor(self) -> str:
        return str(self.document.get("run", {}).get("executor", "threads"))

    def path(self, relative: str) -> Path:
        return self.directory / relative

    def to_json(self) -> dict[str, Any]:
        """Return what the catalog keeps, so that a job can be resumed by its name."""
        return {"source": self.source, "directory": str(self.directory), "document": self.document}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> JobSpec:
        return cls(stored["source"], Path(stored["directory"]), stored["document"])

    def options(self, router: Router) -> RunOptions:
        """Return the limits of a run. Bulk work gets half of a pool, unless it asks for more."""
        run, bad = self.document.get("run", {}), self.document.get("bad_rows", {})
        most = router.config.pool.max_size
        workers = run.get("workers", min(RunOptions.workers, max(1, most // 2)))
        if workers > max(1, most - 1):
            raise JobRefused(
                f"{self.source}: run.workers is {workers}, but a pool has {most} connections ([pool] max_size), of "
                "which others need at least one"
            )
        return RunOptions(
            workers=workers,
            per_shard=run.get("per_shard", workers),
            chunk_rows=run.get("chunk_rows", RunOptions.chunk_rows),
            max_rejected=bad.get("max", 0),
            rejects=str(self.path(bad["directory"])) if "directory" in bad else None,
            patience=Patience(attempts=run.get("attempts", Patience.attempts)),
            limits=RateLimits(**{name: run[name] for name in ("max_rate", "max_latency", "max_lag") if name in run}),
        )


def read_spec(spec: str | os.PathLike[str] | Mapping[str, Any]) -> JobSpec:
    """Read a job file, or take a mapping. Raise `ConfigError`."""
    if isinstance(spec, Mapping):
        return _checked(JobSpec("job", Path.cwd(), dict(spec)))
    path = Path(spec)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), "file", error.strerror or str(error), "a readable file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "file", str(error), "TOML in UTF-8") from error
    return _checked(JobSpec(str(path), path.resolve().parent, document))


def _checked(spec: JobSpec) -> JobSpec:
    kind = spec.document.get("job")
    if kind not in KINDS:
        raise ConfigError(spec.source, "job", kind, "one of " + ", ".join(KINDS))
    validate_document(spec.document, spec.source, f"job.{kind}.schema.json")
    return spec


def digest_of(spec: JobSpec, *facts: object) -> str:
    """Return what must be the same when a job is resumed: the spec, but for limits, and *facts* about its ends."""
    document = {key: value for key, value in spec.document.items() if key not in ("run", "bad_rows", *FIXED)}
    text = json.dumps([document, *map(repr, facts)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
