"""TPC-H's orders follow into one PostgreSQL for reports, while they are written and their partitions move."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from sqlalchemy import create_engine

from shardpool import Sharded
from shardpool.jobs import cancel_job, resume_job, run_job
from shardpool.local import LocalCluster
from shardpool.moves import move_partition

TABLE = """
CREATE TABLE orders (
    o_orderkey bigint PRIMARY KEY, o_custkey bigint, o_orderstatus char(1), o_totalprice numeric(15,2),
    o_orderdate date, o_orderpriority char(15), o_clerk char(15), o_shippriority int, o_comment varchar(79)
);
"""
SPEC = Path(__file__).with_suffix(".toml").read_text()
REPORT = "SELECT o_orderstatus, count(*), sum(o_totalprice) FROM orders GROUP BY 1 ORDER BY 1"

generator = shutil.which("tpchgen-cli", path=f"{Path(sys.executable).parent}") or "tpchgen-cli"
subprocess.run([generator, "-s", "0.005", "--tables", "orders", "--output-dir", ".", "--quiet"], check=True)

with (
    LocalCluster(shards=2, partitions=8, keyspace="tpch") as cluster,
    LocalCluster(shards=1, partitions=1) as reports,
    cluster.router() as router,
):
    router.create_schema(TABLE, {"orders": Sharded("o_orderkey")})
    router.copy_into("orders", "orders.tbl")
    spec = tomllib.loads(SPEC.replace("$REPORTS", reports.url("s0")))
    print(f"{run_job(router, spec).progress.rows:,} rows copied")

    router.query("UPDATE orders SET o_totalprice = o_totalprice * 2 WHERE o_orderstatus = 'P'")
    router.query("DELETE FROM orders WHERE o_orderdate < DATE '1992-02-01'")
    placement = router.shard_map.placements[0]
    move_partition(router, placement.partition.id, to=next(it for it in cluster.names if it != placement.shard))
    print(f"{resume_job(router, spec).progress.changes:,} changes since")

    with create_engine(reports.url("s0")).connect() as connection:
        followed = [tuple(row) for row in connection.exec_driver_sql(REPORT)]
    assert followed == [tuple(row) for row in router.query(REPORT)]
    print(*followed, sep="\n")
    cancel_job(router, "reports")  # and nothing is noted any more
