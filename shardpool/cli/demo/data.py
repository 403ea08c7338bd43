"""TPC-H: the tables, how they are split, and files made by ``tpchgen-cli``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from shardpool.config import schema_path
from shardpool.errors import ShardpoolError
from shardpool.topology.tables import Reference, Sharded, TableKind

#: In an order in which foreign keys are satisfied.
TABLES: dict[str, TableKind] = {
    "region": Reference(),
    "nation": Reference(),
    "supplier": Sharded("s_suppkey"),
    "customer": Sharded("c_custkey"),
    "part": Sharded("p_partkey"),
    "partsupp": Sharded("ps_partkey"),
    "orders": Sharded("o_orderkey"),
    "lineitem": Sharded("l_orderkey"),
}


class GeneratorMissing(ShardpoolError):
    """The program that makes TPC-H data is not installed, or does not run."""


def schema() -> str:
    """Return the DDL of the tables."""
    return schema_path("tpch.sql").read_text(encoding="utf-8")


def query_text(number: int) -> str:
    """Return one of the 22 TPC-H queries."""
    return schema_path(f"tpch/queries/q{number:02}.sql").read_text(encoding="utf-8")


def generate(program: str, directory: Path, scale: float) -> dict[str, Path]:
    """Write one file per table by the generator *program* and return them by table. Raise `GeneratorMissing`."""
    command = [program, "--scale-factor", str(scale), "--output-dir", str(directory), "--quiet"]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if run.returncode != 0:
        said = run.stderr.strip() or run.stdout.strip()
        raise GeneratorMissing(f"{program} failed with exit code {run.returncode}: {said[-500:]}")
    _keep_pairs_unique(directory / "partsupp.tbl")
    return {table: directory / f"{table}.tbl" for table in TABLES}


def _keep_pairs_unique(partsupp: Path) -> None:
    """At some scales below 1, TPC-H's formula gives a part the same supplier twice, which the primary key forbids."""
    unique = {tuple(line.split("|", 2)[:2]): line for line in partsupp.read_text(encoding="ascii").splitlines()}
    partsupp.write_text("\n".join(unique.values()) + "\n", encoding="ascii")


def find_generator() -> str:
    """Return the path of ``tpchgen-cli``: on the PATH, or beside this Python. Raise `GeneratorMissing`."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("tpchgen-cli") or shutil.which("tpchgen-cli", path=beside)
    if found is None:
        raise GeneratorMissing("the program tpchgen-cli is not installed: pip install 'shardpool[local]'")
    return found
