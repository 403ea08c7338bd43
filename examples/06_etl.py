"""Every night: what is new in TPC-H's lineitem, priced by a Python function, into a table of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

from shardpool import Sharded
from shardpool.jobs import run_job
from shardpool.local import LocalCluster

TABLES = """
CREATE TABLE lineitem (
    l_orderkey bigint, l_partkey bigint, l_suppkey bigint, l_linenumber int, l_quantity numeric(15,2),
    l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag char(1),
    l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct char(25),
    l_shipmode char(10), l_comment varchar(44), PRIMARY KEY (l_orderkey, l_linenumber)
);
CREATE TABLE sale (orderkey bigint, line int, shipped date, price numeric(15,2), PRIMARY KEY (orderkey, line));
"""
FUNCTION = """
from decimal import Decimal

def price(rows):
    for row in rows:
        price = row["l_extendedprice"] * (1 - row["l_discount"]) * (1 + row["l_tax"])
        yield {
            "orderkey": row["l_orderkey"],
            "line": row["l_linenumber"],
            "shipped": row["l_shipdate"],
            "price": price.quantize(Decimal("0.01")),
        }
"""
SPEC = """
job = "etl"
name = "sales"

[extract]
query = "SELECT * FROM lineitem WHERE l_returnflag <> 'R'"
key = ["l_orderkey", "l_linenumber"]
since = "l_shipdate"

[transform]
python = "pricing.py:price"

[load]
table = "sale"
mode = "upsert"
"""

Path("pricing.py").write_text(FUNCTION)
Path("sales.toml").write_text(SPEC)
generator = shutil.which("tpchgen-cli", path=f"{Path(sys.executable).parent}") or "tpchgen-cli"
subprocess.run([generator, "-s", "0.005", "--tables", "lineitem", "--output-dir", ".", "--quiet"], check=True)

with LocalCluster(shards=2, partitions=8, keyspace="tpch") as cluster, cluster.router() as router:
    router.create_schema(TABLES, {"lineitem": Sharded("l_orderkey"), "sale": Sharded("orderkey")})
    router.copy_into("lineitem", "lineitem.tbl")
    first = run_job(router, "sales.toml").progress
    print(f"{first.rows:,} rows, {first.rows_per_second:,.0f} rows/s")

    newest = router.query("SELECT max(l_shipdate) FROM lineitem").scalar_one()
    row = (1, 1, 1, 9, 1, 100, 0, 0, "N", "O", newest.replace(year=newest.year + 1), newest, newest, "", "", "")
    router.copy_into("lineitem", [row])
    assert run_job(router, "sales.toml").progress.rows == 1  # only what is new

    expected = (
        "SELECT sum(round(l_extendedprice * (1 - l_discount) * (1 + l_tax), 2)) FROM lineitem WHERE l_returnflag <> 'R'"
    )
    totals = router.query("SELECT sum(price) FROM sale").scalar_one(), router.query(expected).scalar_one()
    print(f"sales {totals[0]:,}")
    assert abs(totals[0] - totals[1]) < totals[1] / 1_000_000  # Python rounds halves to even
