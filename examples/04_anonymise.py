"""Give a copy of a keyspace to the testers: no person is left in it, and every join holds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from shardpool import Reference, Router, Sharded
from shardpool.config import schema_path
from shardpool.jobs import plan_job, run_job
from shardpool.local import LocalCluster

KEYS = {
    "region": None,
    "nation": None,
    "supplier": "s_suppkey",
    "customer": "c_custkey",
    "part": "p_partkey",
    "partsupp": "ps_partkey",
    "orders": "o_orderkey",
    "lineitem": "l_orderkey",
}
JOIN = "SELECT count(*) FROM customer JOIN orders ON o_custkey = c_custkey JOIN lineitem ON l_orderkey = o_orderkey"

os.environ["TPCH_SECRET"] = os.urandom(32).hex()  # a real one comes from a vault: the same secret gives the same copy
Path("04_anonymise.toml").write_bytes(Path(__file__).with_suffix(".toml").read_bytes())
generator = shutil.which("tpchgen-cli", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
subprocess.run([str(generator), "-s", "0.01", "--output-dir", ".", "--quiet"], check=True)

with LocalCluster(shards=2, partitions=8, keyspace="tpch") as cluster, cluster.router() as router:
    tables = {name: Sharded(key) if key else Reference() for name, key in KEYS.items()}
    router.create_schema(schema_path("tpch.sql").read_text(), tables)
    for name in KEYS:
        router.copy_into(name, Path(f"{name}.tbl"))

    # The copy is another keyspace; it may as well be on other servers.
    config = cluster.write_config("anonymous.toml")
    config.write_text(config.read_text().replace('keyspace = "tpch"', 'keyspace = "tpch_anonymous"'))

    for column in plan_job(router, "04_anonymise.toml")["columns"]:
        if column["warning"]:
            print(f"kept: {column['table']}.{column['column']}: {column['warning']}")
    result = run_job(router, "04_anonymise.toml")
    print(f"{result.progress.rows:,} rows, {result.progress.rows_per_second:,.0f} rows/s, {dict(result.checks)}")

    with Router.from_file(config) as copy:
        assert copy.query(JOIN).scalar_one() == router.query(JOIN).scalar_one()
        print(copy.query("SELECT c_custkey, c_name, c_phone FROM customer LIMIT 3").all())
