"""The way out: TPC-H's orders to Parquet, a report of them to CSV, and everything into one PostgreSQL."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow.parquet

from shardpool import Sharded
from shardpool.jobs import run_job
from shardpool.local import LocalCluster

TABLES = """
CREATE TABLE orders (
    o_orderkey bigint PRIMARY KEY, o_custkey bigint, o_orderstatus char(1), o_totalprice numeric(15,2),
    o_orderdate date, o_orderpriority char(15), o_clerk char(15), o_shippriority int, o_comment varchar(79)
);
"""
SPEC = Path(__file__).with_suffix(".toml").read_text()
REPORT = """
job = "etl"
name = "by-status"
[extract]
query = "SELECT o_orderstatus, count(*) AS orders, sum(o_totalprice) AS total FROM orders GROUP BY o_orderstatus"
[load]
directory = "report"
"""

generator = shutil.which("tpchgen-cli", path=f"{Path(sys.executable).parent}") or "tpchgen-cli"
subprocess.run([generator, "-s", "0.005", "--tables", "orders", "--output-dir", ".", "--quiet"], check=True)

with (
    LocalCluster(shards=2, partitions=8, keyspace="tpch") as cluster,
    LocalCluster(shards=1, partitions=1) as one,
    cluster.router() as router,
):
    router.create_schema(TABLES, {"orders": Sharded("o_orderkey")})
    router.copy_into("orders", "orders.tbl")

    # Files are beside the spec: here it is a mapping, and they are in the current directory.
    run_job(router, tomllib.loads(SPEC))
    read = pyarrow.parquet.read_table("export/orders")
    assert read.num_rows == router.query("SELECT count(*) FROM orders").scalar_one()
    print(f"{read.num_rows:,} rows in Parquet, {sum(read['o_totalprice'].to_pylist()):,} in total")

    run_job(router, tomllib.loads(REPORT))
    (report,) = Path("report/rows").iterdir()
    print(report.read_text())

    whole = {"job": "export", "name": "into-one", "to": {"url": one.url("s0")}}
    print(f"{run_job(router, whole).checks['verified_rows']['orders']:,} rows in one PostgreSQL, compared by digests")
